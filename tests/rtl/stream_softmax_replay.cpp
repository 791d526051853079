// Pushes rows through the Verilated softmax unit and collects its results, its running sums and the
// cycles of every handshake; see stream_softmax_rows.py. layout.h is generated from the signature.
#include <cstdint>
#include <type_traits>

#include "Vopennpe_softmax.h"
#include "layout.h"
#include "verilated.h"

double sc_time_stamp() { return 0; }

namespace {

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

// Verilator's ports are integers up to 64 bits and arrays of 32-bit words beyond.
template <typename Port>
void put(Port& port, int offset, int width, uint64_t value) {
    if constexpr (std::is_integral_v<Port>) {
        const uint64_t mask = ((1ULL << width) - 1) << offset;
        port = Port((uint64_t(port) & ~mask) | ((value << offset) & mask));
    } else {
        for (int i = 0; i < width; ++i) {
            const int at = offset + i;
            port[at / 32] = (port[at / 32] & ~(1u << at % 32)) | (uint32_t(value >> i & 1) << at % 32);
        }
    }
}

template <typename Port>
uint64_t get(const Port& port, int offset, int width) {
    if constexpr (std::is_integral_v<Port>) {
        return uint64_t(port) >> offset & (width == 64 ? ~0ULL : (1ULL << width) - 1);
    } else {
        uint64_t value = 0;
        for (int i = 0; i < width; ++i)
            value |= uint64_t(port[(offset + i) / 32] >> (offset + i) % 32 & 1) << i;
        return value;
    }
}

enum Status { DONE, SILENT, WRONG_LAST, TOO_MANY, TOO_MANY_SUMS, UNSTEADY };

}  // namespace

// rows: settings (8 a row), start (beats of a row), codes and keep (LANES a beat). results: codes,
// totals (TOTAL_WORDS a beat), exponents; divisors and places a row; cycles of acceptance (pass 1
// and 2, a beat each) and of the first offer of each result.
extern "C" __attribute__((visibility("default"))) int replay(
    int64_t rows, const int64_t* settings, const int64_t* start, const uint16_t* codes,
    const uint8_t* keep, int pauses, uint64_t seed, uint16_t* results, uint64_t* totals,
    int64_t* exponents, int64_t* divisors, int64_t* places, int64_t* accepted, int64_t* offered) {
    VerilatedContext context;
    Vopennpe_softmax top{&context};
    Pauses source{seed * 2 + 1, pauses != 0}, sink{~seed * 2 + 1, pauses != 0};
    Pauses noise{seed * 4 + 3, true};
    const int64_t beats = start[rows];

    top.elements___05Fvalid = 0;
    top.results___05Fready = 0;
    top.rst = 1;
    for (int i = 0; i < 4; ++i) {
        top.clk = i & 1;
        top.eval();
    }
    top.rst = 0;

    int64_t row = 0, beat = 0, summed = 0, taken = 0, done = 0, quiet = 0;
    int second = 0;
    bool offering = false, seen = false;
    decltype(top.results___05Fpayload) held = top.results___05Fpayload;
    const int64_t* applied = nullptr;
    int64_t tail = 0;
    for (int64_t cycle = 0; tail < 64; ++cycle) {
        const uint32_t idle = cycle >> 6 & 1 ? 128 : 8, busy = cycle >> 7 & 1 ? 128 : 8;
        if (row < rows && beat == start[row] && !second && !offering) {
            const int64_t* wanted = settings + 8 * row;
            bool same = applied != nullptr;
            for (int i = 0; same && i < 8; ++i) same = wanted[i] == applied[i];
            // Settings are static: they change only when nothing is under way.
            if (!same && taken == beat) {
                top.format = wanted[0];
                top.out = wanted[1];
                top.out_shift = wanted[2] & 0x3ff;
                top.underflow_zero = wanted[3];
                top.multiplier = wanted[4];
                top.multiplier_exponent = wanted[5] & 0x3ff;
                top.deferred = wanted[6];
                SET_FIXED(top, wanted[7]);
                applied = wanted;
                same = true;
            }
            if (!same) goto drive;
        }
        if (row < rows && !offering && !source.draw(idle)) {
            offering = true;
            auto& payload = top.elements___05Fpayload;
            for (int lane = 0; lane < LANES; ++lane) {
                put(payload, CODES_OFFSET + 16 * lane, 16, codes[beat * LANES + lane]);
                put(payload, KEEP_OFFSET + lane, 1, keep[beat * LANES + lane]);
            }
            put(payload, SECOND_OFFSET, 1, second);
            put(payload, LAST_OFFSET, 1, beat + 1 == start[row + 1]);
        }
    drive:
        top.elements___05Fvalid = offering;
        if (!offering)  // whatever stands there without valid is not looked at
            for (int lane = 0; lane < LANES; ++lane)
                put(top.elements___05Fpayload, CODES_OFFSET + 16 * lane, 16,
                    noise.draw(128) ? 0xffff : noise.state);
        top.results___05Fready = !sink.draw(busy);
        top.clk = 0;
        top.eval();
        const bool moved = offering && top.elements___05Fready;
        const bool result = top.results___05Fvalid, got = result && top.results___05Fready;
        if (top.updated) {
            if (summed >= beats) return TOO_MANY_SUMS;
            for (int word = 0; word < TOTAL_WORDS; ++word) {
                const int width = TOTAL_BITS - 64 * word < 64 ? TOTAL_BITS - 64 * word : 64;
                totals[summed * TOTAL_WORDS + word] = get(top.total, 64 * word, width);
            }
            exponents[summed++] =
                int64_t(uint64_t(top.exponent) << (64 - EXPONENT_BITS)) >> (64 - EXPONENT_BITS);
        }
        if (result) {
            if (taken >= beats) return TOO_MANY;
            if (!seen) {
                offered[taken] = cycle;
                held = top.results___05Fpayload;
                if (get(held, RESULT_LAST_OFFSET, 1)) {
                    divisors[done] = top.divisor;
                    places[done] = top.places;
                }
            }
            for (int lane = 0; lane < LANES; ++lane)
                if (get(held, 16 * lane, 16) != get(top.results___05Fpayload, 16 * lane, 16))
                    return UNSTEADY;
            seen = true;
        }
        if (got) {
            seen = false;
            const bool last = get(held, RESULT_LAST_OFFSET, 1);
            if (last != (taken + 1 == start[done + 1])) return WRONG_LAST;
            for (int lane = 0; lane < LANES; ++lane)
                results[taken * LANES + lane] = uint16_t(get(held, 16 * lane, 16));
            ++taken;
            done += last;
        }
        quiet = moved || got ? 0 : quiet + 1;
        if (moved) {
            offering = false;
            accepted[2 * beat + second] = cycle;
            if (++beat == start[row + 1]) {
                if (second) ++row;
                else beat = start[row];
                second = !second;
            }
        }
        top.clk = 1;
        top.eval();
        tail = taken == beats ? tail + 1 : 0;
        if (taken < beats && quiet > 4096) return SILENT;
    }
    return summed == beats ? DONE : SILENT;
}
