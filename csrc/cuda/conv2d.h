// What kernels of convolutions share: from pixels of y and taps to elements of x.
#pragma once
#include "index.h"
#include "pointwise.h"
#include "products.h"

namespace fastnn::gpu {

constexpr int64_t kMost = int64_t(1) << 31;
constexpr int kFarAway = -(1 << 30);  // a row that is outside of every image, whatever tap is added

struct Images {
  int groups, height, width, channels;
  int step_y, step_x, base_y, base_x, tap_y, tap_x, taps_y, taps_x, pixels;
  int64_t x_group, x_image, x_channel, x_row, x_column;
  Divisor per_image, per_line;      // pixels of y
  Divisor per_tap, taps_of_a_line;  // values of k

  Images() = default;
  explicit Images(const Convolution& c)
      : groups(int(c.groups)),
        height(int(c.height)),
        width(int(c.width)),
        channels(int(c.channels)),
        step_y(int(c.step_y)),
        step_x(int(c.step_x)),
        base_y(int(c.base_y)),
        base_x(int(c.base_x)),
        tap_y(int(c.tap_y)),
        tap_x(int(c.tap_x)),
        taps_y(int(c.taps_y)),
        taps_x(int(c.taps_x)),
        pixels(int(c.images * c.rows * c.columns)),
        x_group(c.channels * c.x_channel),
        x_image(c.x_image),
        x_channel(c.x_channel),
        x_row(c.x_row),
        x_column(c.x_column),
        per_image(c.rows * c.columns),
        per_line(c.columns),
        per_tap(c.channels > 0 ? c.channels : 1),
        taps_of_a_line(c.taps_x > 0 ? c.taps_x : 1) {}

  GPU_FN bool inside(int y, int x) const { return uint32_t(y) < uint32_t(height) && uint32_t(x) < uint32_t(width); }
  template <class T, class P, class K>
  GPU_FN const T* element(const T* from, const P& pixel, const K& tap) const {
    const int y = pixel.y + tap.y, x = pixel.x + tap.x;
    if (!pixel.there || !tap.there || !inside(y, x)) return nullptr;
    return from + pixel.image * x_image + y * x_row + x * x_column + tap.channel * x_channel;
  }
};

// Of y, by number: its image, and where its tap (0, 0) is in x.
struct Pixel {
  bool there;
  int image, y, x;
  int row, column;

  GPU_FN Pixel(const Images& g, int pixel) : there(pixel < g.pixels) {
    image = int(g.per_image.divide(uint32_t(pixel)));
    const int rest = pixel - image * int(g.per_image.d);
    row = int(g.per_line.divide(uint32_t(rest)));
    column = rest - row * int(g.per_line.d);
    y = row * g.step_y + g.base_y, x = column * g.step_x + g.base_x;
  }
};

// Value k of the sum: its channel, and where it is from tap (0, 0) on.
struct Tap {
  bool there;
  int channel, y, x;

  GPU_FN Tap(const Images& g, int k) {
    const int tap = int(g.per_tap.divide(uint32_t(k))), u = int(g.taps_of_a_line.divide(uint32_t(tap)));
    channel = k - tap * int(g.per_tap.d);
    there = u < g.taps_y;
    y = u * g.tap_y, x = (tap - u * int(g.taps_of_a_line.d)) * g.tap_x;
  }
};

// Too few channels in a group for tiles: a thread for each value.
inline bool is_direct(const Convolution& c) { return c.groups > 1 && c.channels * c.outputs <= 16; }

}  // namespace fastnn::gpu
