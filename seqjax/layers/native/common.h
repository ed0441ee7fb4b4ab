// What the C++ functions share: activations, a small matrix product, and the loop over threads.
//
// Sums run over k in order for every row, however rows are grouped: results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace seqjax {

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;

// ---------------------------------------------------------------------------------------------- elementwise functions

// tanh(x) = x P(x^2) / Q(x^2), fitted for the least relative error on [0, 9] (2e-8; 4e-7 in float32). NaN stays NaN.
inline float Tanh(float x) {
  x = x > 9.0f ? 9.0f : x;
  x = x < -9.0f ? -9.0f : x;
  const float u = x * x;
  const float p = (((1.33534141e-08f * u + 2.06081843e-05f) * u + 3.49553444e-03f) * u + 0.13380981f) * u + 0.99999998f;
  const float q = (((7.77604726e-07f * u + 3.28554622e-04f) * u + 2.58767796e-02f) * u + 0.467142967f) * u + 1.0f;
  float y = x * p / q;
  y = y > 1.0f ? 1.0f : y;
  return y < -1.0f ? -1.0f : y;
}

inline float Sigmoid(float x) { return 0.5f * Tanh(0.5f * x) + 0.5f; }

// ------------------------------------------------------------------------------------------------------ small product

#if defined(__AVX512F__)
constexpr int kLanes = 16, kTall = 8;
#else
constexpr int kLanes = 8, kTall = 4;
#endif
constexpr int kWide = 3;  // kTall rows of kWide vectors of sums, and the operands, fill the registers
typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

// Not by memcpy: GCC copies 32 bytes as two halves through memory, and the read of the whole waits for both.
inline Vector Load(const float* p) { return *reinterpret_cast<const Vector*>(p); }

inline void Store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }

// The same for the first `count` lanes alone, if these are fewer; the others are zero.
inline Vector LoadSome(const float* p, int64_t count) {
  if (count >= kLanes) return Load(p);
  Vector v = {};
  std::memcpy(&v, p, count * sizeof(float));
  return v;
}

inline void StoreSome(float* p, Vector v, int64_t count) {
  if (count >= kLanes) return Store(p, v);
  std::memcpy(p, &v, count * sizeof(float));
}

inline float Sum(Vector v) {
  float sum = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) sum += v[lane];
  return sum;
}

constexpr float kEpsilon = 1e-5f;  // NORM_EPSILON of seqjax/layers/norms.py
constexpr float kLog2E = 1.44269504f;

// 2^y for y < 128, and 2^-126 (as good as 0) below -126: 2^n of the nearest n, times a polynomial of the rest (2e-7).
inline Vector Exp2(Vector y) {
  y = y < -126.0f ? Vector{} - 126.0f : y;
  const Vector n = y + 12582912.0f;  // 1.5 * 2^23: the last bits are those of the integer
  const Vector r = y - (n - 12582912.0f);
  const Vector p = ((((1.327647152e-3f * r + 9.675541331e-3f) * r + 5.550713275e-2f) * r + 0.2402211972f) * r +
                    0.6931469671f) * r + 1.000000072f;
  return (Vector)((Ints)p + ((Ints)n << 23));  // the same bits as integers
}

// The left operand of a product: element (row, i) lies at data[row * row_step + i * step].
struct Left {
  const float* data;
  int64_t row_step, step;

  Left From(int64_t row) const { return {data + row * row_step, row_step, step}; }
};

// A KxN matrix cut into panels of one to kWide vectors of columns, each contiguous, the last one filled up with zeros.
struct Packed {
  int64_t k, n;
  int vectors;
  std::vector<float> data;

  int64_t Width() const { return vectors * kLanes; }

  // `transposed`: the source is NxK.
  Packed(const float* source, int64_t k, int64_t n, bool transposed)
      : k(k), n(n), vectors(static_cast<int>(std::min<int64_t>(kWide, (n + kLanes - 1) / kLanes))) {
    const int64_t width = Width(), panels = (n + width - 1) / width;
    data.assign(panels * k * width, 0.0f);
    for (int64_t panel = 0; panel < panels; ++panel) {
      float* to = data.data() + panel * k * width;
      const int64_t first = panel * width, columns = std::min<int64_t>(width, n - first);
      for (int64_t i = 0; i < k; ++i)
        for (int64_t j = 0; j < columns; ++j)
          to[i * width + j] = transposed ? source[(first + j) * k + i] : source[i * n + first + j];
    }
  }
};

// out[r, :] += a[r, :] W for kRows rows and kVectors vectors of columns; sums over the first k of W's rows, ldw apart.
template <int kRows, int kVectors>
inline void MultiplyPanel(Left a, const float* w, int64_t ldw, int64_t k, float* out, int64_t ldo, bool add) {
  Vector sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) sum[r][c] = add ? Load(out + r * ldo + c * kLanes) : Vector{};
  for (int64_t i = 0; i < k; ++i) {
    Vector column[kVectors];
    for (int c = 0; c < kVectors; ++c) column[c] = Load(w + i * ldw + c * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const float x = a.data[r * a.row_step + i * a.step];
      for (int c = 0; c < kVectors; ++c) sum[r][c] += x * column[c];
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) Store(out + r * ldo + c * kLanes, sum[r][c]);
}

template <int kVectors>
inline void MultiplyRows(Left a, const float* w, int64_t ldw, int64_t k, float* out, int64_t ldo, int64_t rows,
                         bool add) {
  int64_t row = 0;
  for (; row + kTall <= rows; row += kTall)
    MultiplyPanel<kTall, kVectors>(a.From(row), w, ldw, k, out + row * ldo, ldo, add);
  for (; row + 4 <= rows; row += 4) MultiplyPanel<4, kVectors>(a.From(row), w, ldw, k, out + row * ldo, ldo, add);
  for (; row + 2 <= rows; row += 2) MultiplyPanel<2, kVectors>(a.From(row), w, ldw, k, out + row * ldo, ldo, add);
  for (; row < rows; ++row) MultiplyPanel<1, kVectors>(a.From(row), w, ldw, k, out + row * ldo, ldo, add);
}

// The same for any number of vectors.
inline void MultiplyRows(Left a, const float* w, int64_t ldw, int64_t k, float* out, int64_t ldo, int64_t rows,
                         bool add, int64_t vectors) {
  for (; vectors > kWide; vectors -= kWide, w += kWide * kLanes, out += kWide * kLanes)
    MultiplyRows<kWide>(a, w, ldw, k, out, ldo, rows, add);
  if (vectors == 3) return MultiplyRows<3>(a, w, ldw, k, out, ldo, rows, add);
  if (vectors == 2) return MultiplyRows<2>(a, w, ldw, k, out, ldo, rows, add);
  MultiplyRows<1>(a, w, ldw, k, out, ldo, rows, add);
}

// out[rows, :n] = a[rows, :k] W[:k, :n], or added to what is there; n and k at most those of W.
inline void Multiply(Left a, const Packed& w, int64_t k, int64_t n, float* out, int64_t ldo, int64_t rows, bool add) {
  const int64_t width = w.Width();
  float narrow[kTall * kWide * kLanes];
  for (int64_t first = 0; first < n; first += width) {
    const float* panel = w.data.data() + first * w.k;
    const int64_t columns = std::min<int64_t>(width, n - first);
    if (columns == width) {
      MultiplyRows(a, panel, width, k, out + first, ldo, rows, add, w.vectors);
      continue;
    }
    for (int64_t row = 0; row < rows; row += kTall) {
      const int64_t block = std::min<int64_t>(kTall, rows - row);
      for (int64_t r = 0; add && r < block; ++r)
        std::memcpy(narrow + r * width, out + (row + r) * ldo + first, columns * sizeof(float));
      MultiplyRows(a.From(row), panel, width, k, narrow, width, block, add, w.vectors);
      for (int64_t r = 0; r < block; ++r)
        std::memcpy(out + (row + r) * ldo + first, narrow + r * width, columns * sizeof(float));
    }
  }
}

// -------------------------------------------------------------------------------------------------------- parallelism

// Call work(0) .. work(count - 1) on the pool and on this thread. This thread takes what the others have not begun, so
// that it never waits for a thread that may be waiting for it.
inline void ForEach(ffi::ThreadPool& pool, int64_t count, std::function<void(int64_t)> work) {
  struct Shared {
    std::function<void(int64_t)> work;
    int64_t count;
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;

    void Run() {
      for (int64_t i; (i = next.fetch_add(1)) < count;) {
        work(i);
        if (done.fetch_add(1) + 1 == count) {
          std::lock_guard<std::mutex> lock(mutex);
          finished.notify_all();
        }
      }
    }
  };
  auto shared = std::make_shared<Shared>();
  shared->work = std::move(work);
  shared->count = count;
  for (int64_t i = 1; i < std::min<int64_t>(count, pool.num_threads()); ++i) pool.Schedule([shared] { shared->Run(); });
  shared->Run();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->finished.wait(lock, [&] { return shared->done.load() == count; });
}

}  // namespace seqjax
