#include "winograd.h"

#include <algorithm>

#include "../dispatch.h"
#include "../parallel.h"

namespace fastnn::conv {
namespace {

constexpr int64_t kInputBytes = int64_t(1) << 20;  // transformed input of a task, to fit L2
constexpr int64_t kWeightBlock = 16;               // input channels of weights that are transformed at a time
constexpr int64_t kTasks = 8;                      // tasks that few tiles are shared out to

bool consecutive(const std::vector<int64_t>& taps) {
  return taps.size() == 3 && taps[1] == taps[0] + 1 && taps[2] == taps[1] + 1;
}

// Transformed weights: panels of two vectors of output channels, each [36][in_channels][width], u_step floats from one
// of the 36 to the next.
struct Weights {
  int64_t lanes, panels, u_step;
  int vectors(int64_t panel, int64_t out_channels) const {
    return out_channels - panel * 2 * lanes <= lanes ? 1 : 2;
  }
  const float* panel(const float* u, int64_t i) const { return u + i * 36 * u_step; }
};

void transform_weights(const Pass& p, const Array& weight, const Weights& layout, float* u) {
  const Kernels& kernel = kernels();
  auto pack = kernel.gemm.pack_panel[DType::f32];
  int taps[9];
  for (int i = 0; i < 9; ++i) taps[i] = int(p.wu[size_t(i / 3)] + p.wv[size_t(i % 3)]);
  const int64_t width = 2 * layout.lanes, blocks = divide_up(p.in_channels, kWeightBlock);
  parallel_for(layout.panels * blocks, 1, [&](int64_t begin, int64_t end) {
    Scratch packed_memory(size_t(kWeightBlock * 9 * width) * sizeof(float));
    float* packed = packed_memory.as<float>();
    for (int64_t task = begin; task < end; ++task) {
      const int64_t panel = task / blocks, c = task % blocks * kWeightBlock;
      const int64_t count = std::min(kWeightBlock, p.in_channels - c);
      const int vectors = layout.vectors(panel, p.out_channels), wide = vectors * int(layout.lanes);
      const int cols = int(std::min<int64_t>(wide, p.out_channels - panel * width));
      const float* from = weight.as<float>() + panel * width * p.w_out + c * p.w_in;
      if (p.w_in == 9)
        pack(from, 1, p.w_out, count * 9, cols, wide, packed);
      else
        for (int64_t i = 0; i < count; ++i)
          pack(from + i * p.w_in, 1, p.w_out, 9, cols, wide, packed + i * 9 * wide);
      kernel.winograd.transform_weight(packed, taps, count, vectors, u + panel * 36 * layout.u_step + c * wide,
                                       layout.u_step);
    }
  });
}

}  // namespace

bool worth_winograd(const Pass& p, DType dtype, int64_t images) {
  if (dtype != DType::f32 || exact_precision() || p.groups != 1 || p.step_y != 1 || p.step_x != 1) return false;
  if (!consecutive(p.ty) || !consecutive(p.tx)) return false;
  (void)images;
  return p.in_channels >= 16 && p.out_channels >= 16;
}

void run_winograd(const Pass& p, const Array& in, bool nhwc, const Array& weight, const float* bias,
                  const Array* residual, Activation activation, const Array& out, uint8_t* position) {
  const WinogradKernels& kernel = kernels().winograd;
  const TileShape shape = kernel.shape();
  const int64_t lanes = shape.lanes, width = 2 * lanes;
  // One vector more than needed from one of the 36 matrices to the next: else a power of two would bring all of them to
  // the same few sets of the cache.
  const Weights layout{lanes, divide_up(p.out_channels, width), p.in_channels * width + lanes};
  Scratch weight_memory(size_t(layout.panels * 36 * layout.u_step) * sizeof(float));
  float* u = weight_memory.as<float>();
  transform_weights(p, weight, layout, u);

  const int64_t across = divide_up(p.cols, 4), down = divide_up(p.rows, 4), tiles = in.size(0) * down * across;
  const int64_t channels = divide_up(p.in_channels, lanes) * lanes;
  int64_t most = kInputBytes / (36 * channels * int64_t(sizeof(float))) / shape.rows;
  most = shape.rows * std::clamp<int64_t>(most, 1, 4);
  const int64_t tasks = std::max(divide_up(tiles, most), std::min(kTasks, divide_up(tiles, shape.rows)));
  most = divide_up(tiles, tasks);
  const int64_t groups = divide_up(most, shape.rows), rows = divide_up(most, groups);
  const int64_t v_step = groups * rows * channels + lanes, m_step = most * width + lanes;
  const int64_t run = std::min(across, most);  // tiles of a row that are transformed together

  parallel_for(tasks, 1, [&](int64_t begin, int64_t end) {
    Scratch v_memory(size_t(36 * v_step) * sizeof(float)), m_memory(size_t(36 * m_step) * sizeof(float));
    Scratch pixel_memory(size_t(std::max(6 * (4 * run + 2), 32 * run) * lanes) * sizeof(float));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = tiles * task / tasks, count = tiles * (task + 1) / tasks - first;
      // fn(image, row of tiles, first tile in the row, tiles, tiles before) for the runs of neighbours.
      auto for_runs = [&](auto&& fn) {
        for (int64_t done = 0; done < count;) {
          const int64_t at = first + done, x = at % across, n = std::min(across - x, count - done);
          fn(at / (across * down), at / across % down, x, n, done);
          done += n;
        }
      };
      WinogradInput input{};
      input.x_channel = nhwc ? 1 : in.size(2) * in.size(3), input.x_col = nhwc ? p.in_channels : 1;
      input.x_row = in.size(3) * input.x_col;
      input.channels = p.in_channels, input.height = in.size(2), input.width = in.size(3);
      input.region = pixel_memory.as<float>();
      input.v = v_memory.as<float>(), input.v_step = v_step, input.rows = rows;
      for_runs([&](int64_t image, int64_t y, int64_t x, int64_t n, int64_t before) {
        input.x = in.as<float>() + image * p.in_channels * in.size(2) * in.size(3);
        input.top = 4 * y + p.ty[0], input.left = 4 * x + p.tx[0];
        input.tiles = n, input.first = before;
        kernel.transform_input(input);
      });

      WinogradProduct product{};
      product.v = input.v, product.v_step = v_step, product.rows = rows, product.tiles = count;
      product.channels = p.in_channels;
      product.u_step = layout.u_step, product.m = m_memory.as<float>(), product.m_step = m_step;
      WinogradOutput output{};
      output.m_step = m_step, output.pool = p.pool, output.block = pixel_memory.as<float>();
      output.y_channel = nhwc ? 1 : out.stride(1), output.y_row = p.out_row, output.y_col = p.out_col;
      output.activation = activation;
      for (int64_t panel = 0; panel < layout.panels; ++panel) {
        product.u = layout.panel(u, panel);
        product.vectors = output.vectors = layout.vectors(panel, p.out_channels);
        kernel.multiply(product);
        output.channels = int(std::min(width, p.out_channels - panel * width));
        output.bias = bias ? bias + panel * width : nullptr;
        for_runs([&](int64_t image, int64_t y, int64_t x, int64_t n, int64_t before) {
          const int64_t to = image * out.stride(0) + panel * width * output.y_channel + p.offset +
                             4 * (y * p.out_row + x * p.out_col) / (p.pool ? 2 : 1);
          output.m = product.m + before * output.vectors * lanes, output.tiles = n;
          output.rows = std::min<int64_t>(4, p.rows - 4 * y), output.cols = std::min(4 * n, p.cols - 4 * x);
          output.y = out.as<float>() + to;
          output.residual = residual ? residual->as<float>() + to : nullptr;
          output.position = position ? position + to : nullptr;
          kernel.transform_output(output);
        });
      }
    }
  });
}

}  // namespace fastnn::conv
