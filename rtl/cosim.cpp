// The co-processor on a bus: a memory behind its AXI4 master, a host in front of its AXI4-Lite
// registers, and a judge of every handshake; driven by cosim.py, which says what calls mean.
// layout.h is generated from the same signatures as the Verilog's ports.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "layout.h"
#include "verilated.h"

#define STRING(x) #x
#define HEADER(top) STRING(top.h)
#include HEADER(TOP_CLASS)
#if TRACE_FST
#include "verilated_fst_c.h"
using Waves = VerilatedFstC;
#elif TRACE_VCD
#include "verilated_vcd_c.h"
using Waves = VerilatedVcdC;
#else
struct Waves {
    void open(const char*) {}
    void dump(uint64_t) {}
    void close() {}
};
#endif

// Verilator writes a double underscore of the Verilog as ___05F, and marks words that C++ compilers
// may know.
#define BUS(port) top->bus___05F##port
#define LITE(port) top->control___05F##port

double sc_time_stamp() { return 0; }

namespace {

enum Response : uint8_t { OKAY = 0, SLVERR = 2, DECERR = 3 };
enum Channel : int32_t { AR, R, AW, W, B, CHANNELS };
enum Status { RUNNING, INTERRUPT, FAILED };
constexpr const char* NAMES[] = {"AR", "R", "AW", "W", "B"};

// Field for field that of cosim.py.
struct Settings {
    int64_t read_latency, read_interval, write_latency, write_interval;
    int64_t read_base, read_limit, write_base, write_limit;
    int64_t fail_read_beat, fail_write_burst;  // answered with SLVERR; -1 for none
    uint64_t seed;
    int64_t pressure;  // chance in 256 that a channel rests in a cycle
    int64_t events;    // handshakes kept at most
};

struct Event {
    int64_t cycle;
    int32_t channel, beats;
    uint32_t address, response;
};

struct Totals {
    int64_t cycles, read_bursts, read_beats, write_bursts, write_beats, dropped;
};

// xorshift64*: what happens in a run depends on its seed alone.
struct Chance {
    uint64_t state;
    bool draw(int64_t of_256) {
        if (!of_256) return false;
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return int64_t((state * 0x2545F4914F6CDD1DULL) >> 56) < of_256;
    }
};

struct Burst {
    uint64_t address;
    int64_t beats, ready;  // ready: first cycle of the answer
    int64_t done = 0;
    bool failed = false;
};

// What a channel's master offered in the cycle before and has not been relieved of.
struct Held {
    bool waits = false;
    uint64_t words[10] = {};
};

class Machine {
public:
    explicit Machine(int64_t bytes) : memory(bytes) {
        context = std::make_unique<VerilatedContext>();
#if TRACE_FST || TRACE_VCD
        context->traceEverOn(true);
#endif
        top = std::make_unique<TOP_CLASS>(context.get());
        Settings ideal{1, 1, 1, 1, 0, int64_t(1) << 32, 0, int64_t(1) << 32, -1, -1, 0, 0, 0};
        begin(ideal);
        reset(2);
    }

    ~Machine() {
        if (waves) waves->close();
        top->final();
    }

    void begin(const Settings& given) {
        settings = given;
        chance.state = given.seed * 2 + 1;
        totals = {};
        origin = moved = cycle;
        started = false;
        read_free = write_free = 0;
        events.clear();
        failure.clear();
    }

    // Everything under way on the bus is forgotten on both sides.
    void reset(int64_t cycles) {
        reads.clear();
        writes.clear();
        answers.clear();
        for (Held& one : held) one = {};
        failure.clear();
        beat_taken = answer_taken = false;
        BUS(rvalid) = BUS(bvalid) = 0;
        BUS(arready) = BUS(awready) = BUS(wready) = 0;
        LITE(arvalid) = LITE(awvalid) = LITE(wvalid) = LITE(rready) = LITE(bready) = 0;
        top->rst = 1;
        for (int64_t i = 0; i < cycles; ++i) tick([] {});
        top->rst = 0;
    }

    int run(int64_t cycles) {
        for (int64_t i = 0; i < cycles && failure.empty(); ++i) {
            step();
            if (top->__SYM__interrupt) break;
        }
        return !failure.empty() ? FAILED : top->__SYM__interrupt ? INTERRUPT : RUNNING;
    }

    // With `starts`, the cycle in which the write is accepted is cycle 0 of the run.
    bool lite_write(uint32_t address, uint32_t value, bool starts) {
        LITE(awaddr) = address;
        LITE(awprot) = 0;
        LITE(wdata) = value;
        LITE(wstrb) = 15;
        LITE(awvalid) = LITE(wvalid) = LITE(bready) = 1;
        bool asked = false, given = false, answered = false;
        for (int i = 0; i < LITE_CYCLES && failure.empty() && !answered; ++i) {
            step([&] {
                const bool accepted = asked && given;
                asked |= LITE(awvalid) && LITE(awready);
                given |= LITE(wvalid) && LITE(wready);
                if (starts && !accepted && asked && given) origin = moved = cycle, started = true;
                answered = LITE(bvalid);
                if (answered && !(asked && given)) fail("a register write is answered before it");
                if (answered && LITE(bresp)) refused = address;
            });
            LITE(awvalid) = !asked;
            LITE(wvalid) = !given;
        }
        LITE(awvalid) = LITE(wvalid) = LITE(bready) = 0;
        if (!answered) fail("a register write is not answered");
        return failure.empty();
    }

    bool lite_read(uint32_t address, uint32_t* value) {
        LITE(araddr) = address;
        LITE(arprot) = 0;
        LITE(arvalid) = LITE(rready) = 1;
        bool asked = false, answered = false;
        for (int i = 0; i < LITE_CYCLES && failure.empty() && !answered; ++i) {
            step([&] {
                asked |= LITE(arvalid) && LITE(arready);
                answered = LITE(rvalid);
                if (answered && !asked) fail("a register read is answered before it");
                if (answered) *value = LITE(rdata);
                if (answered && LITE(rresp)) refused = address;
            });
            LITE(arvalid) = !asked;
        }
        LITE(arvalid) = LITE(rready) = 0;
        if (!answered) fail("a register read is not answered");
        return failure.empty();
    }

    void trace(const char* path, int64_t first, int64_t last) {
        if (waves) waves->close();
        waves.reset();
        if (!path) return;
        waves = std::make_unique<Waves>();
#if TRACE_FST || TRACE_VCD
        top->trace(waves.get(), 99);
#endif
        waves->open(path);
        wave_first = first;
        wave_last = last;
    }

    int64_t quiet() const { return cycle - moved; }
    int64_t now() const { return cycle - origin; }

    std::vector<uint8_t> memory;
    std::vector<Event> events;
    std::string failure;
    Totals totals{};
    int64_t refused = -1;  // the last register whose access was answered with an error

private:
    static constexpr int LITE_CYCLES = 1000;

    // A clock cycle; `settled` looks at the ports before its edge.
    template <typename Settled>
    void tick(Settled settled) {
        top->clk = 0;
        top->eval();
        dump(0);
        settled();
        top->clk = 1;
        top->eval();
        dump(1);
        totals.cycles = ++cycle - origin;
    }

    void dump(int edge) {
        if (waves && started && now() >= wave_first && now() < wave_last) waves->dump(uint64_t(2 * cycle + edge));
    }

    void step() {
        step([] {});
    }

    // A cycle with all that is on the bus; `host` looks at the registers' ports.
    template <typename Host>
    void step(Host host) {
        offer();
        tick([&] {
            judge();
            serve();
            host();
        });
    }

    // What the memory offers in this cycle depends on the cycles before alone.
    void offer() {
        if (beat_taken) BUS(rvalid) = 0;
        if (answer_taken) BUS(bvalid) = 0;
        beat_taken = answer_taken = false;
        BUS(arready) = !rests();
        BUS(awready) = !rests();
        BUS(wready) = cycle >= write_free && !rests();
        const bool read_rests = rests(), answer_rests = rests();
        if (!BUS(rvalid) && !reads.empty() && !read_rests &&
            cycle >= std::max(reads.front().ready, read_free))
            offer_beat(reads.front());
        if (!BUS(bvalid) && !answers.empty() && !answer_rests && cycle >= answers.front().ready) {
            BUS(bvalid) = 1;
            BUS(bid) = 0;
            BUS(bresp) = answers.front().failed ? SLVERR : inside(answers.front()) ? OKAY : DECERR;
        }
    }

    void offer_beat(const Burst& burst) {
        const uint64_t address = burst.address + burst.done * BUS_BYTES;
        const bool there = address + BUS_BYTES <= memory.size();
        BUS(rvalid) = 1;
        BUS(rid) = 0;
        BUS(rlast) = burst.done + 1 == burst.beats;
        BUS(rresp) = totals.read_beats == settings.fail_read_beat ? SLVERR : there ? OKAY : DECERR;
        if (there)
            std::memcpy(&BUS(rdata), &memory[address], BUS_BYTES);
        else
            std::memset(&BUS(rdata), 0, BUS_BYTES);
    }

    // The handshakes of this cycle.
    void serve() {
        if (BUS(arvalid) && BUS(arready)) {
            reads.push_back(burst(AR, BUS(araddr), BUS(arlen), BUS(arsize), BUS(arburst)));
            reads.back().ready = cycle + settings.read_latency;
            ++totals.read_bursts;
            note(AR, reads.back().beats, BUS(araddr), 0);
        }
        if (BUS(awvalid) && BUS(awready)) {
            writes.push_back(burst(AW, BUS(awaddr), BUS(awlen), BUS(awsize), BUS(awburst)));
            writes.back().failed = totals.write_bursts == settings.fail_write_burst;
            ++totals.write_bursts;
            note(AW, writes.back().beats, BUS(awaddr), 0);
        }
        if (BUS(wvalid) && BUS(wready)) take_beat();
        answer_taken = BUS(bvalid) && BUS(bready);
        if (answer_taken) {
            note(B, answers.front().beats, answers.front().address, BUS(bresp));
            answers.pop_front();
        }
        beat_taken = BUS(rvalid) && BUS(rready);
        if (beat_taken) {
            Burst& burst = reads.front();
            note(R, 1, burst.address + burst.done * BUS_BYTES, BUS(rresp));
            ++totals.read_beats;
            read_free = cycle + settings.read_interval;
            if (++burst.done == burst.beats) reads.pop_front();
        }
    }

    void take_beat() {
        if (writes.empty()) return fail("a beat on W belongs to no burst of AW");
        Burst& burst = writes.front();
        const uint64_t address = burst.address + burst.done * BUS_BYTES;
        const bool last = ++burst.done == burst.beats;
        if (bool(BUS(wlast)) != last)
            return fail(last ? "WLAST is missing" : "WLAST comes before the burst's last beat");
        if (address + BUS_BYTES > memory.size()) {
            ++totals.dropped;
        } else if (!burst.failed) {
            uint8_t bytes[BUS_BYTES];
            std::memcpy(bytes, &BUS(wdata), BUS_BYTES);
            for (int i = 0; i < BUS_BYTES; ++i)
                if (uint64_t(BUS(wstrb)) >> i & 1) memory[address + i] = bytes[i];
        }
        note(W, 1, address, 0);
        ++totals.write_beats;
        write_free = cycle + settings.write_interval;
        if (!last) return;
        burst.ready = cycle + settings.write_latency;
        answers.push_back(burst);
        writes.pop_front();
    }

    Burst burst(Channel channel, uint64_t address, int length, int size, int kind) {
        const int64_t beats = length + 1, bytes = beats * BUS_BYTES;
        const bool read = channel == AR;
        const int64_t base = read ? settings.read_base : settings.write_base;
        const int64_t limit = read ? settings.read_limit : settings.write_limit;
        const std::string what = std::string("a burst on ") + NAMES[channel];
        if (1 << size != BUS_BYTES) fail(what + " is not as wide as the bus");
        if (kind != 1) fail(what + " is not of the kind INCR");
        if (beats > BURST_BEATS) fail(what + " has " + std::to_string(beats) + " beats");
        if (address % BUS_BYTES) fail(what + " begins at " + hex(address) + ", inside a beat");
        if (address / 4096 != (address + bytes - 1) / 4096)
            fail(what + " at " + hex(address) + " crosses 4 KiB");
        if (int64_t(address) < base || int64_t(address) + bytes > limit)
            fail(what + " at " + hex(address) + " of " + std::to_string(bytes) +
                 " bytes leaves the window " + hex(base) + " to " + hex(limit));
        return {address, beats, 0};
    }

    bool inside(const Burst& burst) const {
        return burst.address + burst.beats * BUS_BYTES <= memory.size();
    }

    // Payload of what the master offers must stand until it is taken.
    void judge() {
        stable(AR, BUS(arvalid), BUS(arready),
               {BUS(araddr), BUS(arlen), BUS(arsize), BUS(arburst), BUS(arid)});
        stable(AW, BUS(awvalid), BUS(awready),
               {BUS(awaddr), BUS(awlen), BUS(awsize), BUS(awburst), BUS(awid)});
        uint64_t data[4] = {};
        std::memcpy(data, &BUS(wdata), BUS_BYTES);
        stable(W, BUS(wvalid), BUS(wready),
               {data[0], data[1], data[2], data[3], BUS(wstrb), BUS(wlast)});
    }

    void stable(Channel channel, bool valid, bool ready, std::initializer_list<uint64_t> payload) {
        Held& one = held[channel];
        if (one.waits && !valid) fail(std::string(NAMES[channel]) + " takes back what it offered");
        if (one.waits && valid && !std::equal(payload.begin(), payload.end(), one.words))
            fail(std::string(NAMES[channel]) + " changes what it offered");
        one.waits = valid && !ready;
        if (one.waits) std::copy(payload.begin(), payload.end(), one.words);
    }

    bool rests() { return chance.draw(settings.pressure); }

    void note(Channel channel, int64_t beats, uint64_t address, uint32_t response) {
        moved = cycle;
        if (int64_t(events.size()) < settings.events)
            events.push_back({now(), channel, int32_t(beats), uint32_t(address), response});
    }

    void fail(const std::string& what) {
        if (failure.empty()) failure = what + " (cycle " + std::to_string(now()) + ")";
    }

    static std::string hex(uint64_t value) {
        char text[24];
        std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
        return text;
    }

    std::unique_ptr<VerilatedContext> context;
    std::unique_ptr<TOP_CLASS> top;
    std::unique_ptr<Waves> waves;
    Settings settings{};
    Chance chance{};
    std::deque<Burst> reads, writes, answers;
    Held held[CHANNELS];
    bool beat_taken = false, answer_taken = false;  // in the cycle before
    bool started = false;
    int64_t cycle = 0, origin = 0, moved = 0, read_free = 0, write_free = 0;
    int64_t wave_first = 0, wave_last = 0;
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Machine* cosim_create(int64_t bytes) { return new Machine(bytes); }
EXPORT void cosim_destroy(Machine* machine) { delete machine; }
EXPORT uint8_t* cosim_memory(Machine* machine) { return machine->memory.data(); }
EXPORT void cosim_begin(Machine* machine, const Settings* settings) { machine->begin(*settings); }
EXPORT void cosim_reset(Machine* machine, int64_t cycles) { machine->reset(cycles); }
EXPORT int cosim_run(Machine* machine, int64_t cycles) { return machine->run(cycles); }
EXPORT int cosim_write(Machine* machine, uint32_t address, uint32_t value, int starts) {
    return machine->lite_write(address, value, starts);
}
EXPORT int cosim_read(Machine* machine, uint32_t address, uint32_t* value) {
    return machine->lite_read(address, value);
}
EXPORT int64_t cosim_refused(Machine* machine) { return std::exchange(machine->refused, -1); }
EXPORT int64_t cosim_quiet(Machine* machine) { return machine->quiet(); }
EXPORT const char* cosim_failure(Machine* machine) { return machine->failure.c_str(); }
EXPORT void cosim_totals(Machine* machine, Totals* totals) { *totals = machine->totals; }
EXPORT int64_t cosim_events(Machine* machine, const Event** first) {
    *first = machine->events.data();
    return int64_t(machine->events.size());
}
EXPORT void cosim_trace(Machine* machine, const char* path, int64_t first, int64_t last) {
    machine->trace(path, first, last);
}
