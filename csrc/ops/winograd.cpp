#include "winograd.h"

#include <algorithm>

#include "../dispatch.h"
#include "../parallel.h"

namespace fastnn::conv {
namespace {

constexpr int64_t kInputBytes = int64_t(1) << 20;  // transformed input of a task, to fit L2
constexpr int64_t kTasks = 8;                      // that few tiles are shared out to
constexpr int64_t kFewTiles = 64;                  // up to here panels of weights are the tasks, see run_winograd
constexpr int64_t kFewTilesPanels = 4;             // if there are as many panels
constexpr int64_t kWeightBlock = 16;               // input channels of weights that are transformed at a time

bool consecutive(const std::vector<int64_t>& taps) {
  return taps.back() - taps.front() == int64_t(taps.size()) - 1;  // they rise
}

float* floats(Scratch& memory) { return memory.as<float>(); }

// The operands of a call, and the steps on a range of tiles and a panel of output channels: two vectors, or one where
// it is the last and has no more.
struct Call {
  const Pass& p;
  const Array& in;
  bool nhwc;
  const Array& weight;
  const float* bias;
  const Array* residual;
  Activation activation;
  const Array& out;
  uint8_t* position;

  const Kernels& kernel = kernels();
  const int64_t lanes = kernel.winograd.shape().lanes, width = 2 * lanes;
  const int64_t channels = divide_up(p.in_channels, lanes) * lanes, panels = divide_up(p.out_channels, width);
  const int64_t taps = int64_t(p.ty.size()), side = 7 - taps;  // of the kernel, of a tile of outputs
  const int64_t across = divide_up(p.cols, side), down = divide_up(p.rows, side), tiles = in.size(0) * down * across;

  // Floats from one of the 36 matrices to the next. One vector more than they need: else a power of two would bring all
  // of them to the same few sets of the cache.
  const int64_t u_step = p.in_channels * width + lanes;
  int64_t rows = 0, v_step = 0, m_step = 0, run = 0;

  // Makes room for ranges of at most `most` tiles.
  void set_range(int64_t most) {
    const int64_t groups = divide_up(most, kernel.winograd.shape().rows);
    rows = divide_up(most, groups);
    v_step = groups * rows * channels + lanes, m_step = most * width + lanes;
    run = std::min(across, most);
  }
  size_t u_bytes() const { return size_t(36 * u_step) * sizeof(float); }
  size_t v_bytes() const { return size_t(36 * v_step) * sizeof(float); }
  size_t m_bytes() const { return size_t(36 * m_step) * sizeof(float); }
  size_t pixel_bytes() const { return size_t(std::max(6 * (4 * run + 2), 32 * run) * lanes) * sizeof(float); }

  int vectors(int64_t panel) const { return p.out_channels - panel * width <= lanes ? 1 : 2; }

  // fn(image, row of tiles, first of its tiles, how many, tiles before) for the runs of neighbours in a range.
  template <class Fn>
  void for_runs(int64_t first, int64_t count, Fn&& fn) const {
    for (int64_t done = 0; done < count;) {
      const int64_t at = first + done, x = at % across, n = std::min(across - x, count - done);
      fn(at / (across * down), at / across % down, x, n, done);
      done += n;
    }
  }

  // u [36][in_channels][width] of input channels c to c + kWeightBlock.
  void transform_weight(int64_t panel, int64_t c, float* u) const {
    alignas(64) float packed[kWeightBlock * 25 * 32];
    int order[25];
    const int64_t all = taps * taps;
    for (int64_t i = 0; i < all; ++i) order[i] = int(p.wu[size_t(i / taps)] + p.wv[size_t(i % taps)]);
    const int wide = vectors(panel) * int(lanes);
    const int cols = int(std::min<int64_t>(wide, p.out_channels - panel * width));
    const int64_t count = std::min(kWeightBlock, p.in_channels - c), batch = p.w_in == all ? count : 1;
    const float* from = weight.as<float>() + panel * width * p.w_out + c * p.w_in;
    for (int64_t i = 0; i < count; i += batch)
      kernel.gemm.pack_panel[DType::f32](from + i * p.w_in, 1, p.w_out, all * batch, cols, wide,
                                         packed + i * all * wide);
    kernel.winograd.transform_weight(packed, int(taps), order, count, vectors(panel), u + c * wide, u_step);
  }

  // u of all panels, one after the other.
  Packed transform_weights() const {
    const int64_t blocks = divide_up(p.in_channels, kWeightBlock);
    return Packed(weight, pack_key(PackKind::winograd, p), size_t(panels) * u_bytes(), [&](char* u) {
      parallel_for(panels * blocks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          transform_weight(i / blocks, i % blocks * kWeightBlock,
                           reinterpret_cast<float*>(u) + i / blocks * 36 * u_step);
      });
    });
  }

  void transform_input(int64_t first, int64_t count, int64_t at, float* pixels, float* v) const {
    WinogradInput t{};
    t.x_channel = nhwc ? 1 : in.size(2) * in.size(3), t.x_col = nhwc ? p.in_channels : 1;
    t.x_row = in.size(3) * t.x_col;
    t.channels = p.in_channels, t.height = in.size(2), t.width = in.size(3);
    t.region = pixels, t.v = v, t.v_step = v_step, t.rows = rows, t.side = int(side);
    for_runs(first, count, [&](int64_t image, int64_t y, int64_t x, int64_t n, int64_t before) {
      t.x = in.as<float>() + image * p.in_channels * in.size(2) * in.size(3);
      t.top = side * y + p.ty[0], t.left = side * x + p.tx[0];
      t.tiles = n, t.first = at + before;
      kernel.winograd.transform_input(t);
    });
  }

  // The outputs of a panel, from its weights u and the range's v.
  void finish_panel(int64_t panel, int64_t first, int64_t count, const float* u, const float* v, float* m,
                    float* pixels) const {
    kernel.winograd.multiply({v, v_step, rows, count, p.in_channels, u, u_step, vectors(panel), m, m_step});
    WinogradOutput t{};
    t.m_step = m_step, t.side = int(side), t.vectors = vectors(panel), t.pool = p.pool, t.block = pixels,
    t.activation = activation;
    t.channels = int(std::min(width, p.out_channels - panel * width));
    t.y_channel = nhwc ? 1 : out.stride(1), t.y_row = p.out_row, t.y_col = p.out_col;
    t.bias = bias ? bias + panel * width : nullptr;
    for_runs(first, count, [&](int64_t image, int64_t y, int64_t x, int64_t n, int64_t before) {
      const int64_t to = image * out.stride(0) + panel * width * t.y_channel + p.offset +
                         side * (y * p.out_row + x * p.out_col) / (p.pool ? 2 : 1);
      t.m = m + before * t.vectors * lanes, t.tiles = n;
      t.rows = std::min(side, p.rows - side * y), t.cols = std::min(side * n, p.cols - side * x);
      t.y = out.as<float>() + to;
      t.residual = residual ? residual->as<float>() + to : nullptr;
      t.position = position ? position + to : nullptr;
      kernel.winograd.transform_output(t);
    });
  }
};

// A task is a panel of output channels with all tiles: its weights are transformed and used while they are in the
// cache, where all weights together would go to memory and back (38 MB for 512 channels by 512).
void run_few_tiles(Call& call) {
  call.set_range(call.tiles);
  Scratch v(call.v_bytes());
  parallel_for(divide_up(call.tiles, call.run), 1, [&](int64_t begin, int64_t end) {
    Scratch pixels(call.pixel_bytes());
    const int64_t first = begin * call.run, last = std::min(call.tiles, end * call.run);
    call.transform_input(first, last - first, first, floats(pixels), floats(v));
  });
  std::optional<Packed> kept;
  if (Packed::used_before(call.weight, pack_key(PackKind::winograd, call.p))) kept.emplace(call.transform_weights());
  parallel_for(call.panels, 1, [&](int64_t begin, int64_t end) {
    Scratch u(kept ? 0 : call.u_bytes()), m(call.m_bytes()), pixels(call.pixel_bytes());
    for (int64_t panel = begin; panel < end; ++panel) {
      const float* from = floats(u);
      if (kept) from = reinterpret_cast<const float*>(kept->data()) + panel * 36 * call.u_step;
      for (int64_t c = 0; c < call.p.in_channels && !kept; c += kWeightBlock)
        call.transform_weight(panel, c, floats(u));
      call.finish_panel(panel, 0, call.tiles, from, floats(v), floats(m), floats(pixels));
    }
  });
}

// A task is a range of tiles with all panels.
void run_many_tiles(Call& call) {
  const Packed weights = call.transform_weights();
  const float* u = reinterpret_cast<const float*>(weights.data());
  const int64_t panel_size = 36 * call.u_step;
  const int64_t tile_rows = call.kernel.winograd.shape().rows, tiles = call.tiles;
  int64_t most = kInputBytes / (36 * call.channels * int64_t(sizeof(float))) / tile_rows;
  most = tile_rows * std::clamp<int64_t>(most, 1, 4);
  const int64_t tasks = std::max(divide_up(tiles, most), std::min(kTasks, divide_up(tiles, tile_rows)));
  call.set_range(divide_up(tiles, tasks));
  parallel_for(tasks, 1, [&](int64_t begin, int64_t end) {
    Scratch v(call.v_bytes()), m(call.m_bytes()), pixels(call.pixel_bytes());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = tiles * task / tasks, count = tiles * (task + 1) / tasks - first;
      call.transform_input(first, count, 0, floats(pixels), floats(v));
      for (int64_t panel = 0; panel < call.panels; ++panel)
        call.finish_panel(panel, first, count, u + panel * panel_size, floats(v), floats(m), floats(pixels));
    }
  });
}

}  // namespace

// Direct -> Winograd in GFLOP/s counted as direct sums, forward with bias and ReLU, NCHW, one core of a Zen 4 with
// AVX-512 that does 118 GFLOP/s in multiply-adds; channels_last and backward-data gain about as much
// (64 -> 64 at 14x14: batch 4 instead of 16):
//   channels    7x7, batch 1  batch 16    14x14, 1   16          28x28, 1    16          56x56, 1    16
//   16 -> 16    8 -> 11       64 -> 105   20 -> 37   73 -> 130   70 -> 128   85 -> 183   76 -> 161   92 -> 175
//   64 -> 64    46 -> 53      92 -> 204   76 -> 129  97 -> 199   98 -> 249               101 -> 301  100 -> 320
//   128 -> 128                            89 -> 137              105 -> 265  110 -> 353
//   256 -> 256  59 -> 85      104 -> 219  90 -> 149  106 -> 261  104 -> 298  110 -> 387              100 -> 339
//   512 -> 512  59 -> 73      98 -> 219   90 -> 165  106 -> 280  105 -> 267  108 -> 387
// 5x5 at batch 1: 16 -> 32 at 28x28 88 -> 199, 32 -> 96 at 28x28 110 -> 255, 32 -> 64 at 14x14 107 -> 236,
// 48 -> 128 at 7x7 92 -> 199. With kept weights 512 -> 512 3x3 gains at 7x7 and batch 1 too.
// With fewer channels vectors stay empty (3 -> 64 at 224x224, backward: 42 -> 31), with outputs of 2x2 and less tiles
// do (1.03 times direct). Beyond the last limits scratch memory would be large.
bool worth_winograd(const Pass& p, DType dtype) {
  const bool kernel = (p.ty.size() == 3 || p.ty.size() == 5) && p.tx.size() == p.ty.size();
  const bool form = dtype == DType::f32 && p.groups == 1 && p.step_y == 1 && p.step_x == 1 && kernel &&
                    consecutive(p.ty) && consecutive(p.tx);
  return form && !exact_precision() && p.in_channels >= 16 && p.out_channels >= 16 && p.rows >= 4 && p.cols >= 4 &&
         p.in_channels <= 2048 && p.in_channels * p.out_channels <= 1024 * 1024;
}

void run_winograd(const Pass& p, const Array& in, bool nhwc, const Array& weight, const float* bias,
                  const Array* residual, Activation activation, const Array& out, uint8_t* position) {
  Call call{p, in, nhwc, weight, bias, residual, activation, out, position};
  if (call.tiles <= kFewTiles && call.panels >= kFewTilesPanels)
    run_few_tiles(call);
  else
    run_many_tiles(call);
}

}  // namespace fastnn::conv
