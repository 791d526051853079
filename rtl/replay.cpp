// Pushes sums through the Verilated engine and collects its codes; see replay.py.
// layout.h is generated from the same description as the manifest.
#include <cstdint>

#include "Vopennpe_engine.h"
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

template <typename Words>
void put(Words& words, Field field, uint64_t value) {
    for (int done = 0; done < field.width;) {
        const int word = (field.offset + done) / 32, bit = (field.offset + done) % 32;
        const int count = field.width - done < 32 - bit ? field.width - done : 32 - bit;
        const uint32_t mask = count == 32 ? ~0u : (1u << count) - 1;
        words[word] = (words[word] & ~(mask << bit)) | ((uint32_t(value >> done) & mask) << bit);
        done += count;
    }
}

// A payload of at most 64 bits is one integer.
void put(QData& word, Field field, uint64_t value) {
    const uint64_t mask = ((uint64_t(1) << field.width) - 1) << field.offset;
    word = (word & ~mask) | (value << field.offset & mask);
}

uint32_t get(uint32_t word, Field field) { return word >> field.offset & ((1u << field.width) - 1); }

uint64_t get64(uint64_t word, int offset, int width) { return word >> offset & ((1ull << width) - 1); }

enum Status { DONE, SILENT, WRONG_LANE, TOO_MANY };

}  // namespace

// Sums are given as in replay.py. accepted and offered hold, a sum each, the cycle in which its
// last word was accepted and the cycle in which its first result was offered.
extern "C" __attribute__((visibility("default"))) int replay(int64_t sums, const uint8_t* mode_a, const uint8_t* mode_b,
                      const uint8_t* out, const int64_t* start, const uint16_t* words_a,
                      const uint16_t* words_b, const uint64_t* bias, const uint64_t* shift,
                      const uint8_t* lanes, int underflow_zero, int pauses, uint64_t seed,
                      uint16_t* codes, int64_t* accepted, int64_t* offered, int64_t* cycles) {
    VerilatedContext context;
    Vopennpe_engine top{&context};
    Pauses source{seed * 2 + 1, pauses != 0}, sink{~seed * 2 + 1, pauses != 0};
    Pauses biases{seed * 4 + 3, pauses != 0}, shifts{~seed * 4 + 3, pauses != 0};

    top.underflow_zero = underflow_zero;
    top.words___05Fvalid = 0;
    top.biases___05Fvalid = 0;
    top.shifts___05Fvalid = 0;
    top.results___05Fready = 0;
    top.rst = 1;
    for (int i = 0; i < 4; ++i) {
        top.clk = i & 1;
        top.eval();
    }
    top.rst = 0;

    int64_t cycle = 0, quiet = 0, sum = 0, word = sums ? start[0] : 0, taken = 0;
    uint32_t lane = 0, idle_of_256 = 0, busy_of_256 = 0;
    // Biases and shifts come in streams of their own, as far ahead as the engine takes them.
    int64_t begun = 0, scaled = 0;
    uint32_t scaled_lane = 0;
    bool offering = false, seen = false, bias_offered = false, shift_offered = false;
    int status = DONE;
    // After the last result the engine must stay silent for as long as it could hold another.
    for (int64_t tail = 0; tail < TAIL_CYCLES; ++cycle) {
        // Pauses come in phases: none, source, sink, both; so the pipeline runs full and empty.
        idle_of_256 = cycle >> 6 & 1 ? 128 : 8;
        busy_of_256 = cycle >> 7 & 1 ? 128 : 8;
        if (sum < sums && !offering && !source.draw(idle_of_256)) {
            offering = true;
            const bool first = word == start[sum], last = word + 1 == start[sum + 1];
            auto& payload = top.words___05Fpayload;
            put(payload, WORD_A, words_a[word]);
            put(payload, WORD_B, words_b[word]);
            put(payload, WORD_FIRST, first);
            put(payload, WORD_LAST, last);
            if (first) {
                put(payload, WORD_MODE_A, mode_a[sum]);
                put(payload, WORD_MODE_B, mode_b[sum]);
            }
            if (last) put(payload, WORD_OUT, out[sum]);
        }
        if (begun < sums && !bias_offered && !biases.draw(idle_of_256)) {
            bias_offered = true;
            put(top.biases___05Fpayload, BIAS_LOW, bias[2 * begun]);
            put(top.biases___05Fpayload, BIAS_HIGH, bias[2 * begun + 1]);
        }
        if (scaled < sums && !shift_offered && !shifts.draw(idle_of_256)) {
            shift_offered = true;
            top.shifts___05Fpayload = get64(shift[scaled], scaled_lane * SHIFT_BITS, SHIFT_BITS);
        }
        top.words___05Fvalid = offering;
        top.biases___05Fvalid = bias_offered;
        top.shifts___05Fvalid = shift_offered;
        top.results___05Fready = !sink.draw(busy_of_256);
        top.clk = 0;
        top.eval();
        const bool moved = offering && top.words___05Fready;
        const bool result = top.results___05Fvalid;
        const bool got = result && top.results___05Fready;
        if (moved || got) quiet = 0;
        if (bias_offered && top.biases___05Fready) {
            bias_offered = false;
            ++begun;
        }
        if (shift_offered && top.shifts___05Fready) {
            shift_offered = false;
            const bool last = scaled_lane + 1 == lanes[scaled];
            scaled_lane = last ? 0 : scaled_lane + 1;
            scaled += last;
        }
        if (moved) {
            offering = false;
            if (++word == start[sum + 1]) accepted[sum++] = cycle;
        }
        if (result) {
            if (taken >= sums) return TOO_MANY;
            if (!seen && lane == 0) offered[taken] = cycle;
            seen = true;
        }
        if (got) {
            seen = false;
            const uint32_t payload = top.results___05Fpayload;
            const bool last = lane + 1 == lanes[taken];
            if (get(payload, RESULT_LANE) != lane || get(payload, RESULT_LAST) != last)
                return WRONG_LANE;
            codes[taken * LANES + lane] = uint16_t(get(payload, RESULT_CODE));
            lane = last ? 0 : lane + 1;
            taken += last;
            *cycles = cycle + 1;
        }
        top.clk = 1;
        top.eval();
        tail = taken == sums ? tail + 1 : 0;
        if (taken < sums && ++quiet > SILENCE_CYCLES) {
            status = SILENT;
            break;
        }
    }
    return status;
}
