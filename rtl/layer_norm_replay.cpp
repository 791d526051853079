// Pushes rows through the Verilated normalisation unit and collects its codes; see
// layer_norm_replay.py. layout.h is generated from the same layouts as the ports.
#include <cstdint>
#include <cstring>

#include "Vopennpe_layer_norm.h"
#include "layout.h"
#include "verilated.h"

// Verilator writes a double underscore of the Verilog as ___05F.
double sc_time_stamp() { return 0; }

namespace {

// xorshift64*: the pauses of a run depend on its seed alone.
struct Pauses {
    uint64_t state;
    bool on;
    bool draw(uint32_t of_256) {
        if (!on) return false;
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return ((state * 0x2545F4914F6CDD1DULL) >> 56) < of_256;
    }
};

// A port of any width as words; Verilator's own types are such words in this order.
struct Words {
    uint32_t word[16] = {};
    void put(Field field, uint64_t value) {
        for (int i = 0; i < field.width; ++i) {
            const int at = field.offset + i;
            word[at / 32] = (word[at / 32] & ~(1u << at % 32)) | uint32_t(value >> i & 1) << at % 32;
        }
    }
    uint64_t get(Field field) const {
        uint64_t value = 0;
        for (int i = 0; i < field.width; ++i) {
            const int at = field.offset + i;
            value |= uint64_t(word[at / 32] >> at % 32 & 1) << i;
        }
        return value;
    }
    template <typename Port>
    void give(Port& port) const { std::memcpy(&port, word, sizeof(Port)); }
    template <typename Port>
    void take(const Port& port) {
        std::memset(word, 0, sizeof word);
        std::memcpy(word, &port, sizeof(Port));
    }
};

Field lane(Field codes, int index) { return {codes.offset + 16 * index, 16}; }

enum Status { DONE, SILENT, WRONG_LAST, TOO_MANY, UNSTABLE };

}  // namespace

// settings: 8 a row, in the order of golden's Settings. sums: total, squares, nan of each row.
// times, 5 a row: the cycles in which the last beat of pass 1 and the first and last of pass 2 were
// accepted, and in which the first and the last result were offered.
extern "C" __attribute__((visibility("default"))) int replay(
    int64_t rows, const int64_t* settings, const int64_t* start, const uint16_t* codes,
    const uint8_t* keep, int pauses, uint64_t seed, uint16_t* results, int64_t* sums, int64_t* times,
    int64_t* cycles) {
    VerilatedContext context;
    Vopennpe_layer_norm top{&context};
    Pauses source{seed * 2 + 1, pauses != 0}, sink{~seed * 2 + 1, pauses != 0};
    auto configure = [&](const int64_t* s) {
        top.format = s[0];
        top.out = s[1];
        top.out_shift = s[2] & ((1 << SHIFT_BITS) - 1);
        top.underflow_zero = s[3];
        top.kind = s[4];
        top.count = s[5];
        top.epsilon = s[6];
        top.epsilon_shift = s[7];
    };
    auto beats = [&](int64_t row) { return (start[row + 1] - start[row] + LANES - 1) / LANES; };
    configure(settings);
    top.elements___05Fvalid = 0;
    top.results___05Fready = 0;
    top.rst = 1;
    for (int i = 0; i < 4; ++i) {
        top.clk = i & 1;
        top.eval();
    }
    top.rst = 0;

    int64_t cycle = 0, quiet = 0, row = 0, beat = 0, taken = 0, taken_beat = 0;
    int second = 0;
    bool offering = false, seen = false, held = false;
    Words before, given;
    for (int64_t tail = 0; tail < TAIL_CYCLES; ++cycle) {
        // Pauses come in phases: few or many at the source, the sink, both.
        const uint32_t idle = cycle >> 6 & 1 ? 128 : 8, busy = cycle >> 7 & 1 ? 160 : 8;
        if (row < rows && !offering && !source.draw(idle)) {
            const bool begins = !second && beat == 0;
            const bool changes = begins && row && std::memcmp(settings + 8 * row,
                                                              settings + 8 * row - 8, 64);
            // Settings are static: they change only when nothing is under way.
            if (!changes || taken == row) {
                if (changes) configure(settings + 8 * row);
                offering = true;
                given = {};
                for (int i = 0; i < LANES; ++i) {
                    const int64_t at = start[row] + beat * LANES + i;
                    if (at >= start[row + 1]) break;
                    given.put(lane(ELEMENT_CODES, i), codes[at]);
                    given.put({ELEMENT_KEEP.offset + i, 1}, keep[at]);
                }
                given.put(ELEMENT_SECOND, second);
                given.put(ELEMENT_LAST, beat + 1 == beats(row));
                given.give(top.elements___05Fpayload);
            }
        }
        top.elements___05Fvalid = offering;
        top.results___05Fready = !sink.draw(busy);
        top.clk = 0;
        top.eval();
        const bool moved = offering && top.elements___05Fready;
        const bool result = top.results___05Fvalid, got = result && top.results___05Fready;
        if (moved || got) quiet = 0;
        if (moved) {
            offering = false;
            const bool last = beat + 1 == beats(row);
            if (second && beat == 0) {
                Words found;
                found.take(top.sums);
                int64_t total = int64_t(found.get(SUMS_TOTAL));
                if (total >> (SUMS_TOTAL.width - 1) & 1) total -= int64_t(1) << SUMS_TOTAL.width;
                sums[3 * row] = total;
                sums[3 * row + 1] = int64_t(found.get(SUMS_SQUARES));
                sums[3 * row + 2] = int64_t(found.get(SUMS_NAN));
                times[5 * row + 1] = cycle;
            }
            if (last) times[5 * row + (second ? 2 : 0)] = cycle;
            beat = last ? 0 : beat + 1;
            row += last && second;
            second ^= last;
        }
        if (result) {
            if (taken >= rows) return TOO_MANY;
            Words found;
            found.take(top.results___05Fpayload);
            if (held && std::memcmp(found.word, before.word, sizeof found.word)) return UNSTABLE;
            const bool last = taken_beat + 1 == beats(taken);
            if (!seen && taken_beat == 0) times[5 * taken + 3] = cycle;
            if (!seen && last) times[5 * taken + 4] = cycle;
            seen = !got;
            held = !got;
            before = found;
            if (got) {
                if (found.get(RESULT_LAST) != uint64_t(last)) return WRONG_LAST;
                for (int i = 0; i < LANES; ++i) {
                    const int64_t at = start[taken] + taken_beat * LANES + i;
                    if (at < start[taken + 1])
                        results[at] = uint16_t(found.get(lane(RESULT_CODES, i)));
                }
                taken_beat = last ? 0 : taken_beat + 1;
                taken += last;
                *cycles = cycle + 1;
            }
        } else if (held) {
            return UNSTABLE;
        }
        top.clk = 1;
        top.eval();
        // After the last result the unit must stay silent for as long as it could hold another.
        tail = taken == rows ? tail + 1 : 0;
        if (taken < rows && ++quiet > SILENCE_CYCLES) return SILENT;
    }
    return DONE;
}
