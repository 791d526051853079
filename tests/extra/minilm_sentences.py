"""Sentences of many kinds, written for these tests: 24 to calibrate with and 104 to judge by."""

from __future__ import annotations

__all__ = ["CALIBRATION", "SENTENCES"]

CALIBRATION = """
A flock of starlings turned above the harbour as the ferries came in.
Please restart the router and wait until the light turns green.
The committee postponed its decision until the auditors had finished.
How long does it take to bake a loaf of rye bread?
She plays the cello in a quartet that meets on Tuesdays.
Interest rates rose by a quarter of a point in March.
The vaccine has to be stored between two and eight degrees.
An unhandled exception occurred while parsing the configuration file.
Two children were building a dam across the little stream.
Under the terms of the contract, either party may withdraw within thirty days.
Volcanic ash closed the airport for most of the week.
I would rather walk than take the crowded tram.
The goalkeeper saved a penalty in the last minute.
Matrix multiplication dominates the running time of neural networks.
My grandmother kept bees behind the orchard.
Heavy rain is expected in the north, with gusts of up to ninety kilometres an hour.
The museum lends its tapestries only in winter.
Can you recommend a quiet hotel near the station?
Photosynthesis turns light, water and carbon dioxide into sugar.
He apologised twice, but nobody answered the letter.
The train to Lisbon leaves from platform four at 17:42.
Not every proof by induction is as simple as this one.
Our tomatoes ripened late because the spring had been so cold.
The satellite lost contact shortly after it had entered orbit.
""".strip().splitlines()

SENTENCES = """
The cat sleeps on the warm windowsill.
A dog barked at the postman all morning.
Ships waited outside the port for three days.
The recipe calls for two eggs and a pinch of salt.
He tuned the old piano before the concert.
Snow fell on the mountain pass overnight.
The library opens at nine and closes at six.
Our team won the match after extra time.
The bridge was closed for repairs in August.
She learned to ride a bicycle at the age of six.
The bakery on the corner sells excellent croissants.
Water boils at a lower temperature at high altitude.
The committee elected a new chairwoman.
I forgot my umbrella on the bus again.
The novel tells the story of two sisters.
Electric cars need fewer moving parts than petrol cars.
The farmer sold his last cow in the spring.
A thin crack ran along the length of the wall.
The surgeon washed her hands for five minutes.
They painted the kitchen yellow and the hall white.
The server returned an error because the token had expired.
Compile the program with optimisation turned on.
The function returns the index of the first match.
Backups run every night at half past two.
The new processor executes eight instructions per cycle.
A cache miss costs about a hundred cycles.
The test fails only when the clock moves backwards.
Engineers measured the power drawn by the memory.
The compiler unrolled the inner loop four times.
Quantised networks run on very small devices.
Rounding errors may add up over many layers.
The sensor reports its temperature once a second.
Open the valve slowly until the pressure is stable.
The robot arm picks up a part and turns it over.
Satellites photograph the coast every five days.
The telescope observed a galaxy far beyond our own.
Light from the star takes eleven years to reach us.
The comet will return in seventy six years.
Gravity bends the path of light near heavy bodies.
Atoms in a crystal vibrate even at low temperature.
Enzymes speed up reactions inside the cell.
The river carries sediment to the delta.
Coral reefs suffer when the sea becomes too warm.
Wolves returned to the valley after a century.
The oak behind the church is four hundred years old.
Bees tell each other where the flowers are by dancing.
Whales sing songs that change from year to year.
The garden needs water twice a week in summer.
Potatoes grow well in loose, sandy soil.
Frost killed most of the apple blossom in April.
The price of wheat doubled within a year.
The central bank left its rates unchanged.
Shares fell sharply after the announcement.
The company hired forty people in its new office.
Unemployment has fallen for six months in a row.
The tax on sugar was introduced two years ago.
She invested her savings in a small vineyard.
The strike ended after a night of negotiations.
Tourists spend less than they did before.
The insurance does not cover damage by floods.
The treaty was signed in a small town by the lake.
Voters will decide about the new law in June.
The mayor promised more trees and fewer cars.
The court rejected the appeal without a hearing.
Refugees crossed the border on foot.
The ambassador was recalled for consultations.
Parliament debated the budget until midnight.
The old constitution had only twelve articles.
Journalists were not admitted to the meeting.
The general resigned a week after the ceasefire.
What is the capital of Portugal?
How do I reset my password?
Which train goes to the airport?
Why is the sky blue during the day?
When does the pharmacy open on Sundays?
Who wrote this piece of music?
Could you send me the invoice once more, please?
Is there a vegetarian dish on the menu?
Where can I leave my luggage for a few hours?
Do you know a good book about the history of mathematics?
I am very sorry for the delay.
Thank you for your quick and friendly answer.
The film was much longer than it needed to be.
This is by far the best soup I have ever eaten.
The hotel room was small, loud and rather dirty.
Never buy shoes in the morning.
It is not what he said but how he said it.
Nobody has seen the key since yesterday evening.
The concert was sold out within ten minutes.
She danced until the musicians packed up their instruments.
The painting shows a woman reading a letter at a window.
The choir rehearses every Thursday in the old school.
His handwriting is almost impossible to read.
The museum shows coins from the third century.
The architect planned the house around a single tree.
A stone bridge with five arches crosses the river.
The actor forgot his lines and improvised.
The poem has fourteen lines and no title.
The runner finished the marathon in under three hours.
The chess player sacrificed a rook and won six moves later.
Stretch your legs before you start to run.
The patient has taken this medicine for ten years without any side effects, but his doctor \
would now like to lower the dose step by step.
Although the expedition had prepared for storms, nobody had expected that the ice would break \
up so early in the year and that the ship would drift three hundred miles to the west before \
help arrived.
If the measured voltage rises above the threshold while the motor is still running, the \
controller opens the relay, writes the time into its log and waits until somebody acknowledges \
the alarm.
""".strip().splitlines()
