// One head of one sequence, prepared for attention: read from x W_qkv with biases, normed and rotated, and back again.
//
// An array of a head is "across": element (k, t) at k * ld + t, zero from T on; or "along": element (t, k) at
// t * columns + k.
#pragma once

#include "common.h"

namespace seqjax {

constexpr float kLn2 = 0.693147181f;

struct Sizes {
  int64_t runs, batch, heads, times, width;
  int64_t step, vectors, ld, columns;  // of a row of qkv; of the times; of arrays across; of arrays along time

  Sizes(const Array& qkv_BxTxE, const Array& log_sum_BxNxT) {
    const auto dims = log_sum_BxNxT.dimensions();
    const size_t rank = dims.size();
    times = dims[rank - 1], heads = dims[rank - 2], batch = dims[rank - 3], runs = 1;
    for (size_t i = 0; i + 3 < rank; ++i) runs *= dims[i];
    step = qkv_BxTxE.dimensions().back(), width = step / (3 * heads);
    vectors = (times + kLanes - 1) / kLanes;
    ld = (vectors + (vectors % 2 == 0)) * kLanes;  // an odd number: a power of two would put all rows into one place
    columns = (width + kLanes - 1) / kLanes * kLanes;
  }

  int64_t Tasks() const { return runs * batch * heads; }
};

// Memory of this thread, which it keeps: `count` floats from a cache line's beginning.
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    constexpr int64_t kLine = 64, kFloats = kLine / sizeof(float);
    thread_local std::vector<float> kept;
    if (static_cast<int64_t>(kept.size()) < count + kFloats) kept.resize(count + kFloats);
    const auto address = reinterpret_cast<uintptr_t>(kept.data());
    next_ = kept.data() + (kLine - address % kLine) % kLine / sizeof(float);
  }

  // `count` floats: a multiple of kLanes.
  float* Take(int64_t count) { return std::exchange(next_, next_ + count); }

 private:
  float* next_;
};

// ---------------------------------------------------------------------------------------------------------- one operand

// kLanes rows of kLanes floats become their columns.
inline void Transpose(Vector* rows) {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 4
  for (int bit = 1; bit < kLanes; bit *= 2) {
    Ints low, high;
    for (int j = 0; j < kLanes; ++j) low[j] = j & bit ? kLanes + j - bit : j, high[j] = j & bit ? kLanes + j : j + bit;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & bit) continue;
      const Vector a = rows[i], b = rows[i | bit];
      rows[i] = __builtin_shuffle(a, b, low), rows[i | bit] = __builtin_shuffle(a, b, high);
    }
  }
#else
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < i; ++j) {
      const float kept = rows[i][j];
      rows[i][j] = rows[j][i], rows[j][i] = kept;
    }
#endif
}

// to[k * ld + t] = from[t * step + k] + bias[k], zero from T on.
inline void Across(const Sizes& s, const float* from, int64_t step, const float* bias, float* to) {
  Vector rows[kLanes];
  for (int64_t first = 0; first < s.ld; first += kLanes)
    for (int64_t k = 0; k < s.width; k += kLanes) {
      const int64_t wide = std::min<int64_t>(kLanes, s.width - k);
      for (int64_t r = 0; r < kLanes; ++r)
        rows[r] = first + r < s.times ? LoadSome(from + (first + r) * step + k, wide) : Vector{};
      Transpose(rows);
      for (int64_t j = 0; j < wide; ++j) Store(to + (k + j) * s.ld + first, bias ? rows[j] + bias[k + j] : rows[j]);
    }
  if (bias)
    for (int64_t k = 0; k < s.width; ++k) std::fill(to + k * s.ld + s.times, to + (k + 1) * s.ld, 0.0f);
}

// to[t * step + k] = from[k * ld + t] for `count` times; with `padded`, zero for k from K to the next vector's end.
inline void Along(const float* from, int64_t ld, int64_t width, int64_t count, float* to, int64_t step, bool padded) {
  Vector rows[kLanes];
  for (int64_t first = 0; first < count; first += kLanes)
    for (int64_t k = 0; k < width; k += kLanes) {
      const int64_t wide = std::min<int64_t>(kLanes, width - k), high = std::min<int64_t>(kLanes, count - first);
      for (int64_t j = 0; j < kLanes; ++j) rows[j] = j < wide ? Load(from + (k + j) * ld + first) : Vector{};
      Transpose(rows);
      for (int64_t r = 0; r < high; ++r)
        StoreSome(to + (first + r) * step + k, rows[r], padded ? kLanes : wide);
    }
}

// How queries or keys become what is multiplied: z = factor * turn(gain * x / sqrt(mean(x^2) + 1e-5)).
struct Turn {
  const float *gain, *cos, *sin;  // null: none. cos, sin: [K / 2, T], rows `stride` apart
  int64_t stride;
  float factor;

  void Forward(const Sizes& s, const float* x, float* root, float* z) const {
    const int64_t half = s.width / 2;
    for (int64_t t = 0; t < s.vectors * kLanes; t += kLanes) {
      Vector r = Vector{} + 1.0f;
      if (gain) {
        Vector sum = {};
        for (int64_t k = 0; k < s.width; ++k) sum += Load(x + k * s.ld + t) * Load(x + k * s.ld + t);
        for (int lane = 0; lane < kLanes; ++lane) r[lane] = 1.0f / std::sqrt(sum[lane] / s.width + kEpsilon);
        Store(root + t, r);
      }
      const auto at = [&](int64_t k) { return Load(x + k * s.ld + t) * (gain ? r * (factor * gain[k]) : r * factor); };
      for (int64_t k = 0; k < (cos ? half : s.width); ++k) {
        const Vector a = at(k);
        if (!cos) {
          Store(z + k * s.ld + t, a);
          continue;
        }
        const Vector b = at(k + half), c = Load(cos + k * stride + t), d = Load(sin + k * stride + t);
        Store(z + k * s.ld + t, a * c - b * d);
        Store(z + (k + half) * s.ld + t, a * d + b * c);
      }
    }
  }

  // The gradient of z, already times the factor, becomes that of x; sums of the gain's: K vectors.
  void Backward(const Sizes& s, const float* x, const float* root, float* d, float* d_gain) const {
    const int64_t half = s.width / 2;
    for (int64_t t = 0; t < s.vectors * kLanes; t += kLanes) {
      for (int64_t k = 0; cos && k < half; ++k) {
        const Vector c = Load(cos + k * stride + t), e = Load(sin + k * stride + t);
        const Vector a = Load(d + k * s.ld + t), b = Load(d + (k + half) * s.ld + t);
        Store(d + k * s.ld + t, a * c + b * e);
        Store(d + (k + half) * s.ld + t, b * c - a * e);
      }
      if (!gain) continue;
      const Vector r = Load(root + t);
      Vector dot = {};
      for (int64_t k = 0; k < s.width; ++k) {
        const Vector product = Load(d + k * s.ld + t) * (Load(x + k * s.ld + t) * r);
        Store(d_gain + k * kLanes, Load(d_gain + k * kLanes) + product);
        dot += gain[k] * product;
      }
      dot *= 1.0f / s.width;
      for (int64_t k = 0; k < s.width; ++k)
        Store(d + k * s.ld + t, r * (gain[k] * Load(d + k * s.ld + t) - Load(x + k * s.ld + t) * r * dot));
    }
  }
};

// ------------------------------------------------------------------------------------------------------------ one head

// A head's operands: where they are, and how they are prepared.
struct Head {
  const Sizes& s;
  const float *qkv, *bias;  // of the first row; null: none
  Turn turn_q, turn_k;
  int64_t run, row, head;
  float *raw_q, *raw_k, *q, *k, *v, *root_q, *root_k;  // across, and [ld]

  Head(const Sizes& s, int64_t task, const Array& qkv_all, const Array& biases, const Array& gains, const Array& turns,
       float scale)
      : s(s), run(task / (s.batch * s.heads)), row(task / s.heads % s.batch), head(task % s.heads) {
    const auto of_run = [&](const Array& x) {
      return x.element_count() ? x.typed_data() + run * (x.element_count() / s.runs) : nullptr;
    };
    qkv = qkv_all.typed_data() + (run * s.batch + row) * s.times * s.step + head * s.width;
    bias = of_run(biases) ? of_run(biases) + head * s.width : nullptr;
    const float *gain = of_run(gains), *turn = of_run(turns);
    const int64_t stride = turns.dimensions().back();
    const float* sin = turn ? turn + s.width / 2 * stride : nullptr;
    turn_q = {gain, turn, sin, stride, scale * kLog2E};
    turn_k = {gain ? gain + s.width : nullptr, turn, sin, stride, 1.0f};
  }

  int64_t Kept() const { return s.width * s.ld * 5 + 2 * s.ld; }

  void Prepare(Scratch& scratch) {
    const int64_t size = s.width * s.ld, apart = s.heads * s.width;
    raw_q = scratch.Take(size), raw_k = scratch.Take(size), q = scratch.Take(size), k = scratch.Take(size);
    v = scratch.Take(size), root_q = scratch.Take(s.ld), root_k = scratch.Take(s.ld);
    Across(s, qkv, s.step, bias, raw_q);
    Across(s, qkv + apart, s.step, bias ? bias + apart : nullptr, raw_k);
    Across(s, qkv + 2 * apart, s.step, bias ? bias + 2 * apart : nullptr, v);
    turn_q.Forward(s, raw_q, root_q, q);
    turn_k.Forward(s, raw_k, root_k, k);
  }
};

}  // namespace seqjax
