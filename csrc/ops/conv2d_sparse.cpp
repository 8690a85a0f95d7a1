// Convolution gradients when most of dy is zero, as it is behind a max-pool (at most one element of a 2x2 window is
// not) and a ReLU: the sums run over the elements that are not zero. Images lie as [y][x][c], so that a row of the
// kernel is one run of kw * c floats:
//   dx[i sh + u dh, j sw ..] += dy[o, i, j] * w[o, u, ..]       dw[o, u, ..] += dy[o, i, j] * x[i sh + u dh, j sw ..]
// LeNet's second convolution, batch 100: 3 times faster than the dense gradients, which also visit the padding of dy.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "../dispatch.h"
#include "../parallel.h"
#include "conv2d.h"

namespace fastnn::conv {
namespace {

constexpr int64_t kParts = 16;                    // partial sums of dw; fixed, so that bits do not depend on threads
constexpr int64_t kMostVectors = 8;               // of eight floats in a run
constexpr int64_t kSamples = 16, kSample = 4096;  // runs of dy that stand for all, and their elements
constexpr double kDensity = 0.3;                  // at most; dense tiles do 16 multiply-adds a cycle, runs about 6

struct Layout {
  int64_t run, vectors, padded;  // floats of a kernel row; vectors; run rounded up to vectors
  int64_t rows, cols, row;       // padded image, floats per row
  int64_t top_left;              // first float of the image within the padded one
};

Layout layout(const Geometry& g) {
  Layout l{};
  l.run = g.kw * g.c;
  l.vectors = (l.run + 7) / 8;
  l.padded = l.vectors * 8;
  l.rows = std::max((g.oh - 1) * g.sh + (g.kh - 1) * g.dh + 1, g.top + g.h);
  l.cols = std::max((g.ow - 1) * g.sw + g.kw, g.left + g.w);
  l.row = l.cols * g.c;
  l.top_left = g.top * l.row + g.left * g.c;
  return l;
}

}  // namespace

bool may_be_sparse(const Geometry& g) {
  return g.dtype == DType::f32 && g.groups == 1 && g.dw == 1 && g.kw * g.c <= 8 * kMostVectors && g.kw * g.c >= 8 &&
         g.n > 0 && g.oc * g.oh * g.ow <= int64_t(1) << 30;
}

bool worth_sparse(const Geometry& g, const Array& dy) {
  const int64_t size = g.n * g.oc * g.oh * g.ow;
  const int64_t samples = std::clamp<int64_t>(size / kSample, 1, kSamples), sample = std::min(size, kSample);
  Scratch values(size_t(kSample + 16) * sizeof(float)), positions(size_t(kSample + 16) * sizeof(int32_t));
  int64_t count = 0;
  for (int64_t i = 0; i < samples; ++i)
    count += kernels().conv2d_sparse.nonzeros(dy.as<float>() + size / samples * i, sample, values.as<float>(),
                                              positions.as<int32_t>());
  return double(count) <= kDensity * double(samples * sample);
}

// Null where a value is not finite: zero times infinity is NaN in the dense sums, and is not skipped there.
std::optional<Gradients> backward_sparse(const Geometry& g, const Array& dy, const Array& x, const Array& weight,
                                         bool need_x, bool need_weight, bool need_bias) {
  const Conv2dSparseKernels& kernel = kernels().conv2d_sparse;
  auto pack = kernels().gemm.pack_panel[DType::f32];
  const Layout l = layout(g);
  const int64_t pixels = g.oh * g.ow, image = l.rows * l.row, weights = g.oc * g.kh * l.padded, area = g.h * g.w;
  const int64_t parts = std::min(g.n, kParts);
  if (!kernel.all_finite(weight.as<float>(), weight.numel())) return std::nullopt;

  // w as [o][u][v * c + ch], zeros behind each run.
  Array w = Array::zeros({weights}, DType::f32), partial = Array::zeros({need_weight ? parts : 0, weights}, DType::f32);
  for (int64_t o = 0; o < g.oc; ++o)
    for (int64_t u = 0; u < g.kh; ++u)
      for (int64_t c = 0; c < g.c; ++c)
        for (int64_t v = 0; v < g.kw; ++v)
          w.as<float>()[(o * g.kh + u) * l.padded + v * g.c + c] =
              weight.as<float>()[((o * g.c + c) * g.kh + u) * g.kw + v];

  Gradients out;
  if (need_x) out.x = Array::empty_like(x);
  Array bias_sums = Array::zeros({g.n, need_bias ? g.oc : 0}, DType::f32);
  std::atomic<bool> finite{true};

  parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
    Scratch x_memory(size_t(image + l.padded) * sizeof(float)), dx_memory(size_t(image + l.padded) * sizeof(float));
    Scratch value_memory(size_t(pixels + 16) * sizeof(float)), position_memory(size_t(pixels + 16) * sizeof(int32_t));
    Scratch offset_memory(size_t(pixels + 16) * sizeof(int64_t)), table_memory(size_t(pixels) * sizeof(int64_t));
    float *xs = x_memory.as<float>(), *dxs = dx_memory.as<float>(), *values = value_memory.as<float>();
    int32_t* positions = position_memory.as<int32_t>();
    int64_t *offsets = offset_memory.as<int64_t>(), *table = table_memory.as<int64_t>();
    std::memset(xs, 0, size_t(image + l.padded) * sizeof(float));
    for (int64_t i = 0; i < g.oh; ++i)
      for (int64_t j = 0; j < g.ow; ++j) table[i * g.ow + j] = i * g.sh * l.row + j * g.sw * g.c;

    for (int64_t part = begin; part < end; ++part)
      for (int64_t n = g.n * part / parts; n < g.n * (part + 1) / parts; ++n) {
        if (need_weight) {
          const float* from = x.as<float>() + n * x.stride(0);
          if (l.cols == g.w)
            pack(from, x.stride(3), x.stride(1), area, int(g.c), int(g.c), xs + l.top_left);
          else
            for (int64_t y = 0; y < g.h; ++y)
              pack(from + y * x.stride(2), x.stride(3), x.stride(1), g.w, int(g.c), int(g.c),
                   xs + l.top_left + y * l.row);
          if (!kernel.all_finite(xs, image)) finite.store(false, std::memory_order_relaxed);
        }
        if (need_x) std::memset(dxs, 0, size_t(image + l.padded) * sizeof(float));
        for (int64_t o = 0; o < g.oc; ++o) {
          int64_t count = kernel.nonzeros(dy.as<float>() + (n * g.oc + o) * pixels, pixels, values, positions);
          if (!kernel.all_finite(values, count)) finite.store(false, std::memory_order_relaxed);
          for (int64_t e = 0; e < count; ++e) offsets[e] = table[positions[e]];
          if (need_x)
            kernel.scatter_runs(count, values, offsets, g.kh, int(l.vectors), w.as<float>() + o * g.kh * l.padded, dxs,
                                g.dh * l.row);
          if (need_weight)
            kernel.gather_runs(count, values, offsets, g.kh, int(l.vectors), xs, g.dh * l.row,
                               partial.as<float>() + part * weights + o * g.kh * l.padded);
          if (need_bias) kernels().gemm.sum_run[DType::f32](values, count, bias_sums.as<float>() + n * g.oc + o);
        }
        if (!need_x) continue;
        float* to = out.x->as<float>() + n * x.stride(0);
        const float* from = dxs + l.top_left;
        if (x.stride(1) != 1 && l.cols == g.w) {  // no padding at the sides: turn [pixels][c] in one go
          pack(from, 1, g.c, g.c, int(area), int(area), to);
          continue;
        }
        for (int64_t y = 0; y < g.h; ++y) {
          if (x.stride(1) == 1)
            std::memcpy(to + y * x.stride(2), from + y * l.row, size_t(g.w * g.c) * sizeof(float));
          else
            for (int64_t c = 0; c < g.c; ++c)
              for (int64_t i = 0; i < g.w; ++i) to[c * area + y * g.w + i] = from[y * l.row + i * g.c + c];
        }
      }
  });
  if (!finite.load()) return std::nullopt;

  auto sum_rows = kernels().gemm.sum_rows[DType::f32];
  if (need_weight) {
    sum_rows(partial.as<float>() + weights, parts - 1, weights, weights, partial.data);
    out.weight = Array::empty(weight.shape, DType::f32);
    for (int64_t o = 0; o < g.oc; ++o)
      for (int64_t u = 0; u < g.kh; ++u)
        for (int64_t c = 0; c < g.c; ++c)
          for (int64_t v = 0; v < g.kw; ++v)
            out.weight->as<float>()[((o * g.c + c) * g.kh + u) * g.kw + v] =
                partial.as<float>()[(o * g.kh + u) * l.padded + v * g.c + c];
  }
  if (need_bias) {
    out.bias = Array::zeros({g.oc}, DType::f32);
    sum_rows(bias_sums.data, g.n, g.oc, g.oc, out.bias->data);
  }
  return out;
}

}  // namespace fastnn::conv
