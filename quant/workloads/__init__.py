"""Networks to train and measure: visual-inertial odometry, classification, eye gaze."""
