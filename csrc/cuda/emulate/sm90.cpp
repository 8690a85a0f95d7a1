// mbarriers, bulk copies of tensors and wgmma, as the PTX ISA manual has them; shared memory matrices as its section on
// the asynchronous warpgroup-level matrix layouts.
#include <algorithm>
#include <deque>
#include <map>

#include "check.h"

namespace fastnn::emulate {

namespace {

struct Waiting {
  Thread* thread;
  int parity;
};
struct Mbarrier {
  int count, pending;
  int64_t bytes;  // expected, less what has landed
  int phase;
  int engine;                  // the actor that its copies are
  uint32_t clock;              // of that actor
  Clocks arriving, completed;  // what is known from arrivals; the same when the last phase ended
  std::vector<Waiting> waiting;
  bool unseen;                // a copy landed, and nobody has waited since
  const Thread* initialised;  // who did, and has not fenced it
};
std::map<uint32_t, Mbarrier> mbarriers;

struct BulkCopy {
  uint32_t to, mbarrier;
  std::vector<unsigned char> data;
};
std::deque<BulkCopy> bulk_copies;

// What a thread has issued of wgmma: operations without a group, then groups.
struct Issued {
  WgmmaOperation operation;
  Site site;
};
struct Group {
  std::vector<Issued> operations;
  uint32_t clock;  // of the tensor core when it did them; 0: not yet
};
struct Queue {
  std::vector<Issued> open;
  std::deque<Group> groups;
  bool fenced;
};
Queue queues[kMaxThreads];
bool queues_used;

struct Warpgroup {
  int arrived;
  uint32_t clock;
  int registers, threads;  // per thread, and the threads that asked for them
} warpgroups[kMaxThreads / kWarpgroup];

Mbarrier& mbarrier_at(uint32_t address, Site site) {
  const auto it = mbarriers.find(address);
  if (it == mbarriers.end()) fail("no mbarrier at offset %u, used at %s:%d", address, site.file, site.line);
  access_shared(address, 8, Access::atomic, nullptr);  // its initialisation must come before
  return it->second;
}

void end_phase_if_complete(Mbarrier& b) {
  if (b.pending || b.bytes) return;
  ++b.phase;
  b.pending = b.count;
  b.completed = b.arriving;
  auto& w = b.waiting;
  w.erase(std::remove_if(w.begin(), w.end(),
                         [&](const Waiting& x) {
                           if (x.parity == b.phase % 2) return false;
                           set_ready(x.thread);
                           return true;
                         }),
          w.end());
}

void land(const BulkCopy& copy) {
  std::memcpy(arena + copy.to, copy.data.data(), copy.data.size());
  std::fill_n(arena_state + copy.to, copy.data.size(), kInside);
  Mbarrier& b = mbarriers.at(copy.mbarrier);
  landed(copy.to, copy.data.size(), b.engine, ++b.clock);
  b.arriving.of[b.engine] = b.clock;
  b.bytes -= int64_t(copy.data.size());
  b.unseen = true;
  end_phase_if_complete(b);
}

// TensorMap's words.
struct Tensor {
  const unsigned char* data;
  int64_t size[5];
  uint32_t stride[5];
  uint16_t box[5];
  uint8_t step[5];
  uint8_t rank, element, swizzled;
};
static_assert(sizeof(Tensor) <= sizeof(gpu::TensorMap));

uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

}  // namespace

void begin_asynchronous() {
  mbarriers.clear();
  bulk_copies.clear();
  if (queues_used)
    for (Queue& q : queues) q = {};
  queues_used = false;
  for (Warpgroup& w : warpgroups) w = {};
}

bool asynchronous_step() {
  if (bulk_copies.empty()) return false;
  // Copies land in any order.
  auto next = bulk_copies.begin();
  if (options.schedule == Schedule::highest) next = bulk_copies.end() - 1;
  if (options.schedule == Schedule::random) next += int64_t(random_number() % bulk_copies.size());
  const BulkCopy copy = std::move(*next);
  bulk_copies.erase(next);
  land(copy);
  return true;
}

void end_asynchronous() {
  if (!bulk_copies.empty()) report("the block ends with a bulk copy to offset %u in flight", bulk_copies[0].to);
  for (const auto& [address, b] : mbarriers)
    if (b.unseen) report("the block ends, and nobody waited for the bulk copies of the mbarrier at offset %u", address);
  int registers = 0;
  for (const Warpgroup& w : warpgroups) {
    if (w.threads % kWarpgroup) report("%d threads of a warpgroup changed their number of registers", w.threads);
    registers += w.registers * kWarpgroup;
  }
  if (registers > kRegisters) report("the warpgroups of the block ask for %d registers", registers);
  if (!queues_used) return;
  for (int t = 0; t < thread_count; ++t)
    if (!queues[t].open.empty() || !queues[t].groups.empty())
      report("thread %d ends with a wgmma that it did not wait for", t);
}

void mbarrier_init(uint32_t address, int count, Site site) {
  if (address % 8 || count < 1)
    fail("mbarrier of %d threads at offset %u, at %s:%d", count, address, site.file, site.line);
  if (mbarriers.size() == kMbarriers) fail("more than %d mbarriers", kMbarriers);
  access_shared(address, 8, Access::write, nullptr);
  const int engine = kCopyEngine + int(mbarriers.size());
  mbarriers[address] = {count, count, 0, 0, engine, 0, {}, {}, {}, false, current};
}

void fence_mbarrier_init() {
  for (auto& [address, b] : mbarriers)
    if (b.initialised == current) b.initialised = nullptr;
}

void mbarrier_arrive(uint32_t address, int expected_bytes, Site site) {
  Mbarrier& b = mbarrier_at(address, site);
  if (!b.pending) fail("mbarrier at offset %u: more than %d arrive at %s:%d", address, b.count, site.file, site.line);
  publish(*current, b.arriving);
  b.bytes += expected_bytes;
  --b.pending;
  end_phase_if_complete(b);
}

void mbarrier_wait(uint32_t address, int parity, Site site) {
  Mbarrier& b = mbarrier_at(address, site);
  while (b.phase % 2 == parity) {
    b.waiting.push_back({current, parity});
    current->operation = "mbarrier_wait";
    current->site = site;
    wait();
  }
  b.unseen = false;
  learn(*current, b.completed);
}

void tma_load(uint32_t to, const gpu::TensorMap& map, const int* at, int rank, uint32_t mbarrier, Site site) {
  void* caller = __builtin_return_address(0);
  Tensor t;
  std::memcpy(&t, &map, sizeof t);
  if (mbarrier_at(mbarrier, site).initialised)
    fail("bulk copy at %s:%d: its mbarrier was initialised without fence_mbarrier_init()", site.file, site.line);
  if (rank != t.rank) fail("bulk copy of rank %d of a tensor of rank %d at %s:%d", rank, t.rank, site.file, site.line);
  if (to % (t.swizzled ? 1024 : 128)) fail("bulk copy to offset %u at %s:%d is not aligned", to, site.file, site.line);
  size_t bytes = t.element;
  for (int i = 0; i < rank; ++i) bytes *= t.box[i];
  if (bytes % 16) fail("bulk copy of %zu bytes at %s:%d", bytes, site.file, site.line);
  access_shared(to, bytes, Access::copy, caller);

  BulkCopy copy{to, mbarrier, std::vector<unsigned char>(bytes)};
  int box[5] = {};
  for (uint32_t offset = 0; offset < bytes; offset += t.element) {
    bool inside = true;
    const unsigned char* from = t.data;
    for (int i = 0; i < rank; ++i) {
      const int64_t x = at[i] + int64_t(box[i]) * t.step[i];
      inside &= x >= 0 && x < t.size[i];
      from += x * t.stride[i];
    }
    const uint32_t place = t.swizzled ? swizzled(to + offset) - to : offset;
    if (inside) {
      access(from, t.element, Access::read, caller);
      std::memcpy(&copy.data[place], from, t.element);
    }
    for (int i = 0; i < rank && ++box[i] == t.box[i]; ++i) box[i] = 0;
  }
  std::fill_n(arena_state + to, bytes, kInFlight);
  if (options.copies == Copies::early)
    land(copy);
  else
    bulk_copies.push_back(std::move(copy));
}

namespace {

struct Matrix {
  uint32_t address, stride, leading;
  bool transposed;  // M- or N-major
  int element;

  Matrix(uint64_t descriptor, bool transposed, int element, Site site)
      : address(uint32_t(descriptor & 0x3fff) << 4),
        stride(uint32_t(descriptor >> 32 & 0x3fff) << 4),
        leading(uint32_t(descriptor >> 16 & 0x3fff) << 4),
        transposed(transposed),
        element(element) {
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7))
      fail("wgmma at %s:%d: only 128-byte swizzled matrices are emulated", site.file, site.line);
  }
  // Of row m (or n) and column k.
  uint32_t offset(int m, int k) const {
    if (transposed) return swizzled(address + m / 64 * leading + k / 8 * stride + k % 8 * 128 + m % 64 * element);
    return swizzled(address + m / 8 * stride + m % 8 * 128 + k * element);
  }
};

float value(DType type, uint32_t offset) {
  if (type == DType::f32) {
    uint32_t u;
    std::memcpy(&u, arena + offset, 4);
    u &= ~0x1fffu;  // tf32: the rest is ignored
    float x;
    std::memcpy(&x, &u, 4);
    return x;
  }
  uint16_t u;
  std::memcpy(&u, arena + offset, 2);
  return type == DType::bf16 ? bf16_to_float(u) : f16_to_float(u);
}

int columns_of(DType type) { return type == DType::f32 ? 8 : 16; }

// Both operands; clock 0: checked only, as nothing is read yet.
void check_operands(const Issued& i, const Thread& knows, uint32_t clock) {
  const WgmmaOperation& o = i.operation;
  const int bytes = o.type == DType::f32 ? 4 : 2, actor = kTensorCore + knows.warp / 4;
  auto check = [&](const Matrix& matrix, int rows) {
    const int chunk = 16 / bytes;  // 16 bytes stay together
    for (int m = 0; m < rows; m += matrix.transposed ? chunk : 1)
      for (int k = 0; k < columns_of(o.type); k += matrix.transposed ? 1 : chunk)
        asynchronous_read(matrix.offset(m, k), 16, knows, actor, clock);
  };
  check(Matrix(o.a, o.m_major, bytes, i.site), 64);
  check(Matrix(o.b, o.n_major, bytes, i.site), o.n);
}

// The same operation of the 128 threads from `first` on.
void multiply(int first, size_t group, size_t index) {
  const Issued& issued = queues[first].groups[group].operations[index];
  const WgmmaOperation& o = issued.operation;
  const int bytes = o.type == DType::f32 ? 4 : 2, columns = columns_of(o.type);
  const Matrix a(o.a, o.m_major, bytes, issued.site), b(o.b, o.n_major, bytes, issued.site);
  static float left[64][16], right[16][256], sum[64][256];
  for (int m = 0; m < 64; ++m)
    for (int k = 0; k < columns; ++k) left[m][k] = value(o.type, a.offset(m, k));
  for (int n = 0; n < o.n; ++n)
    for (int k = 0; k < columns; ++k) right[k][n] = value(o.type, b.offset(n, k));
  auto each = [&](auto f) {
    for (int t = 0; t < kWarpgroup; ++t)
      for (int i = 0; i < o.n / 2; ++i)
        f(queues[first + t].groups[group].operations[index].operation.d[i],
          sum[t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8][i / 4 * 8 + t % 4 * 2 + i % 2]);
  };
  each([&](float& d, float& s) { s = o.accumulate ? d : 0; });
  for (int m = 0; m < 64; ++m)
    for (int k = 0; k < columns; ++k)
      for (int n = 0; n < o.n; ++n) sum[m][n] += left[m][k] * right[k][n];
  each([&](float& d, float& s) { d = s; });
}

// All but the latest `pending` groups of the warpgroup are done now.
void execute(int first, size_t pending) {
  Warpgroup& w = warpgroups[first / kWarpgroup];
  auto& groups = queues[first].groups;
  for (int t = 1; t < kWarpgroup; ++t) {
    const auto& other = queues[first + t].groups;
    bool same = other.size() == groups.size();
    for (size_t g = 0; same && g < groups.size(); ++g) same = other[g].operations.size() == groups[g].operations.size();
    if (!same) fail("threads %d and %d of a warpgroup have issued different numbers of wgmma", first, first + t);
  }
  for (size_t g = 0; g + pending < groups.size(); ++g) {
    if (groups[g].clock) continue;
    ++w.clock;
    for (size_t i = 0; i < groups[g].operations.size(); ++i) {
      const Issued& issued = groups[g].operations[i];
      for (int t = 1; t < kWarpgroup; ++t) {
        const Issued& other = queues[first + t].groups[g].operations[i];
        const WgmmaOperation &x = issued.operation, &y = other.operation;
        if (issued.site.line != other.site.line || x.a != y.a || x.b != y.b || x.accumulate != y.accumulate ||
            x.n != y.n || x.type != y.type)
          fail("wgmma at %s:%d: threads %d and %d of a warpgroup have different operands", issued.site.file,
               issued.site.line, first, first + t);
      }
      check_operands(issued, threads[first], w.clock);
      multiply(first, g, i);
      ++stats.mma;
    }
    for (int t = 0; t < kWarpgroup; ++t) queues[first + t].groups[g].clock = w.clock;
  }
}

// Waits for all of the warpgroup; the last to come does the work.
void together(const char* operation, Site site, size_t pending) {
  const int first = current->id / kWarpgroup * kWarpgroup;
  Warpgroup& w = warpgroups[first / kWarpgroup];
  if (++w.arrived < kWarpgroup) {
    current->operation = operation;
    current->site = site;
    return wait();
  }
  w.arrived = 0;
  for (int t = 0; t < kWarpgroup; ++t) {
    const Thread& other = threads[first + t];
    if (&other != current &&
        (!other.operation || std::strcmp(other.operation, operation) || other.site.line != site.line))
      fail("%s at %s:%d, but thread %d is in %s at %s:%d", operation, site.file, site.line, first + t, other.operation,
           other.site.file, other.site.line);
  }
  execute(first, pending);
  for (int t = 0; t < kWarpgroup; ++t)
    if (Thread& other = threads[first + t]; &other != current) set_ready(&other);
}

}  // namespace

void wgmma_fence() { queues[current->id].fenced = true; }

void wgmma(const WgmmaOperation& operation, Site site) {
  Queue& q = queues[current->id];
  queues_used = true;
  if (current->id / kWarpgroup * kWarpgroup + kWarpgroup > thread_count)
    fail("wgmma at %s:%d by less than a warpgroup", site.file, site.line);
  if (!q.fenced) fail("wgmma at %s:%d without wgmma_fence() before it", site.file, site.line);
  q.open.push_back({operation, site});
  current->wgmma_pending = true;
  if (current->lane == 0) check_operands(q.open.back(), *current, 0);
}

void wgmma_commit(Site site) {
  Queue& q = queues[current->id];
  queues_used = true;
  q.groups.push_back({std::move(q.open), 0});
  q.open.clear();
  together("wgmma_commit", site, options.copies == Copies::early ? 0 : q.groups.size());
}

void wgmma_wait(int pending, Site site) {
  Queue& q = queues[current->id];
  together("wgmma_wait", site, size_t(pending));
  q.fenced = false;
  while (q.groups.size() > size_t(pending)) {
    learn(*current, kTensorCore + current->id / kWarpgroup, q.groups.front().clock);
    q.groups.pop_front();
  }
  current->wgmma_pending = !q.groups.empty() || !q.open.empty();
}

void registers(int count) {
  Warpgroup& w = warpgroups[current->id / kWarpgroup];
  w.registers = count;
  ++w.threads;
}

void check_accumulators(const void* p, size_t n) {
  auto check = [&](const Issued& issued) {
    const auto* begin = reinterpret_cast<const char*>(issued.operation.d);
    const auto* end = begin + issued.operation.n / 2 * sizeof(float);
    const auto* a = static_cast<const char*>(p);
    if (a < end && a + n > begin)
      fail("accumulators of the wgmma at %s:%d, which was not waited for, are used", issued.site.file,
           issued.site.line);
  };
  const Queue& q = queues[current->id];
  for (const Issued& issued : q.open) check(issued);
  for (const Group& g : q.groups)
    for (const Issued& issued : g.operations) check(issued);
}

}  // namespace fastnn::emulate

namespace fastnn::gpu {

Status tensor_map(TensorMap* map, const TensorView& v) {
  constexpr Status kInvalidValue = 1;
  const int element = int(size_of(v.dtype));
  if (v.rank < 2 || v.rank > 5 || reinterpret_cast<uintptr_t>(v.data) % 16) return kInvalidValue;
  emulate::Tensor t = {};
  t.data = static_cast<const unsigned char*>(v.data);
  t.rank = uint8_t(v.rank);
  t.element = uint8_t(element);
  t.swizzled = v.swizzled;
  for (int i = 0; i < v.rank; ++i) {
    const int64_t stride = i ? v.stride[i] : element;
    const bool valid = v.size[i] >= 1 && v.size[i] <= int64_t(1) << 32 && v.box[i] >= 1 && v.step[i] >= 1 &&
                       v.step[i] <= 8 && v.box[i] * v.step[i] <= 256 && (!i || (stride % 16 == 0 && stride > 0));
    if (!valid || stride > 0xffffffff) return kInvalidValue;
    t.size[i] = v.size[i];
    t.stride[i] = uint32_t(stride);
    t.box[i] = uint16_t(v.box[i]);
    t.step[i] = uint8_t(v.step[i]);
  }
  if (v.step[0] != 1 || v.box[0] * element % 16 || (v.swizzled && v.box[0] * element != 128)) return kInvalidValue;
  std::memcpy(map, &t, sizeof t);
  return 0;
}

}  // namespace fastnn::gpu
