// A board's pins: characters go out and come in bit by bit, at a rate of their own; driven by
// board_cosim.py, which says what calls mean. TOP_CLASS, FINE (parts of a clock cycle that
// bits are measured in) and RESET_CYCLES come from the generated layout.h.
#include <cstdint>
#include <deque>
#include <memory>

#include "layout.h"
#include "verilated.h"

#define STRING(x) #x
#define HEADER(top) STRING(top.h)
#include HEADER(TOP_CLASS)

double sc_time_stamp() { return 0; }

namespace {

constexpr int BITS = 10;       // start, eight of data, stop

class Board {
public:
    Board() {
        context = std::make_unique<VerilatedContext>();
        top = std::make_unique<TOP_CLASS>(context.get());
        top->receive = 1;
        reset();
    }

    ~Board() { top->final(); }

    void reset() {
        top->rst = 1;
        for (int64_t i = 0; i < RESET_CYCLES; ++i) tick();
        top->rst = 0;
    }

    // Runs until the character `stop` has come in, or so many cycles have passed.
    int64_t run(int64_t cycles, int stop) {
        int64_t i = 0;
        found = false;
        while (i < cycles && !found) {
            send();
            tick();
            receive(stop);
            ++i;
        }
        return i;
    }

    void tick() {
        top->clk = 0;
        top->eval();
        top->clk = 1;
        top->eval();
        ++cycle;
    }

    std::deque<uint8_t> out, in;
    bool found = false;  // by the last run
    int64_t bit = 4 * FINE;                     // length of a bit
    int64_t glitch_first = -1, glitch_end = -1;  // cycles in which the wire in is inverted
    int64_t cycle = 0;
    std::unique_ptr<VerilatedContext> context;
    std::unique_ptr<TOP_CLASS> top;

private:
    void send() {
        if (!sending && !out.empty()) {
            // Stop bit above, start bit below.
            shift = 0x200 | out.front() << 1;
            out.pop_front();
            sending = true;
            sent_at = 0;
        }
        int level = 1;
        if (sending) {
            level = shift >> (sent_at / bit) & 1;
            sent_at += FINE;
            if (sent_at >= BITS * bit) sending = false;
        }
        const bool glitch = cycle >= glitch_first && cycle < glitch_end;
        top->receive = level ^ int(glitch);
    }

    void receive(int stop) {
        const int level = top->transmit;
        if (!receiving) {
            if (level) return;
            receiving = true;
            count = 0;
            next = bit / 2;
            at = 0;
        }
        if (at >= next) {
            // Start bits are not judged: what is not one shows as a character that is none.
            if (count >= 1 && count <= 8) byte = uint8_t(byte >> 1 | level << 7);
            next += bit;
            if (++count == BITS) {
                receiving = false;
                if (level) in.push_back(byte);
                found |= level && byte == stop;
            }
        }
        at += FINE;
    }

    bool sending = false, receiving = false;
    int shift = 0, count = 0;
    int64_t sent_at = 0, at = 0, next = 0;
    uint8_t byte = 0;
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Board* board_create() { return new Board; }
EXPORT void board_destroy(Board* board) { delete board; }
EXPORT void board_reset(Board* board) { board->reset(); }
EXPORT void board_bit(Board* board, int64_t fine) { board->bit = fine; }
EXPORT void board_glitch(Board* board, int64_t after, int64_t cycles) {
    board->glitch_first = board->cycle + after;
    board->glitch_end = board->glitch_first + cycles;
}
EXPORT void board_send(Board* board, const uint8_t* data, int64_t size) {
    board->out.insert(board->out.end(), data, data + size);
}
EXPORT int64_t board_waiting(Board* board) { return int64_t(board->out.size()); }
EXPORT int64_t board_run(Board* board, int64_t cycles, int stop) {
    return board->run(cycles, stop);
}
EXPORT int board_found(Board* board) { return board->found; }
EXPORT int64_t board_receive(Board* board, uint8_t* data, int64_t most) {
    int64_t count = 0;
    while (count < most && !board->in.empty()) {
        data[count++] = board->in.front();
        board->in.pop_front();
    }
    return count;
}
EXPORT int64_t board_cycle(Board* board) { return board->cycle; }
EXPORT int board_lights(Board* board) {
    return board->top->busy | board->top->error << 1 | board->top->heartbeat << 2;
}
