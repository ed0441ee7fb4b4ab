// Causal self-attention on a CPU, forward and backward, as XLA custom calls in float32: from the product x W_qkv to the
// sum of the values, with biases, norms of queries and keys, and rotary positions on the way.
//
// One head of one sequence at a time on each thread. Scores are held in tiles of kTile keys x up to kWide vectors of
// queries, which stay in the nearest cache; a query's sums lie in one lane. A tile sees no keys after its queries. The
// backward pass computes the weights again from the logarithm of their sum (Dao et al. 2022, arXiv 2205.14135, section
// 3.1). Logarithms are to the base 2: its factor goes into the queries, with the factor of the scores.

#include "head.h"

namespace seqjax {
namespace {

constexpr int64_t kTile = 64;
constexpr float kSafe = 60.0f;  // scores up to 2^60 need no shift: their sums are far from the ends of float32

// A tile: keys from `key` on, `rows` of them; queries from `query` on, `vectors` of them, `wide` floats a row.
struct Tile {
  int64_t key, rows, query, vectors, wide;

  // Keys that some query of a vector sees.
  int64_t Seen(int64_t vector) const {
    return std::clamp<int64_t>(query + (vector + 1) * kLanes - key, 0, rows);
  }

  // Keys that all queries of a vector see.
  int64_t SeenByAll(int64_t vector) const {
    return std::clamp<int64_t>(query + vector * kLanes + 1 - key, 0, Seen(vector));
  }

  // work(first key, keys, first vector) for parts of the tile: these keys are seen from that vector on.
  template <typename Work>
  void Parts(Work work) const {
    for (int64_t vector = 0, done = 0; vector < vectors; done = Seen(vector++))
      if (Seen(vector) > done) work(done, Seen(vector) - done, vector);
  }
};

// work(tile) for all tiles of a block of queries.
template <typename Work>
void Tiles(const Sizes& s, int64_t query, Work work) {
  const int64_t vectors = std::min<int64_t>(kWide, s.vectors - query / kLanes), wide = vectors * kLanes;
  const int64_t end = std::min(query + wide, s.times);
  for (int64_t key = 0; key < end; key += kTile)
    work(Tile{key, std::min(kTile, end - key), query, vectors, wide});
}

// out[s, t] = sum_k a[k, s] b[k, t], a and b across.
void Scores(const Sizes& s, const Tile& tile, const float* a, const float* b, float* out) {
  tile.Parts([&](int64_t first, int64_t rows, int64_t vector) {
    const int64_t skip = vector * kLanes;
    MultiplyRows({a + tile.key + first, 1, s.ld}, b + tile.query + skip, s.ld, s.width, out + first * tile.wide + skip,
                 tile.wide, rows, false, tile.vectors - vector);
  });
}

// out[k, t] += sum_s a[k, s] w[s, t]: `a` across, `out` with rows `ldo` apart.
void SumOverKeys(const Sizes& s, const Tile& tile, const float* a, const float* w, float* out, int64_t ldo) {
  tile.Parts([&](int64_t first, int64_t rows, int64_t vector) {
    const int64_t skip = vector * kLanes;
    MultiplyRows({a + tile.key + first, s.ld, 1}, w + first * tile.wide + skip, tile.wide, rows, out + skip, ldo,
                 s.width, true, tile.vectors - vector);
  });
}

// out[s, k] += sum_t w[s, t] b[t, k]: `b` along time with rows `ldb` apart, `out` too, with `columns`.
void SumOverQueries(const Sizes& s, const Tile& tile, const float* w, const float* b, int64_t ldb, float* out) {
  tile.Parts([&](int64_t first, int64_t rows, int64_t vector) {
    const int64_t skip = vector * kLanes, query = tile.query + skip;
    MultiplyRows({w + first * tile.wide + skip, tile.wide, 1}, b + query * ldb, ldb,
                 std::min(tile.wide - skip, s.times - query), out + (tile.key + first) * s.columns, s.columns, rows,
                 true, s.columns / kLanes);
  });
}

// weight(s, at, visible lanes) for the scores of one vector of queries.
template <typename Each>
void EachWeight(const Tile& tile, int64_t vector, Each each) {
  Ints lanes;
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane;
  const int64_t skip = vector * kLanes, by_all = tile.SeenByAll(vector), seen = tile.Seen(vector);
  for (int64_t row = 0; row < by_all; ++row) each(row * tile.wide + skip, [](Vector p) { return p; });
  for (int64_t row = by_all; row < seen; ++row) {
    const Ints visible = lanes >= static_cast<int32_t>(tile.key + row - tile.query - skip);
    each(row * tile.wide + skip, [&](Vector p) { return visible ? p : Vector{}; });
  }
}

// What is taken from a query's scores before they become weights: their maximum, if some may be large, else zero.
void Shifts(const Head& head, int64_t query, float* scores, float* shift) {
  const Sizes& s = head.s;
  const auto largest = [&](const float* x, int64_t first, int64_t end) {
    float top = 0.0f;
    for (int64_t t = first; t < end; t += kLanes) {
      Vector sum = {};
      for (int64_t k = 0; k < s.width; ++k) sum += Load(x + k * s.ld + t) * Load(x + k * s.ld + t);
      for (int lane = 0; lane < kLanes; ++lane) top = sum[lane] <= top ? top : sum[lane];  // NaN stays
    }
    return top;
  };
  const int64_t end = std::min(query + kWide * kLanes, s.vectors * kLanes);
  std::fill(shift, shift + kWide * kLanes, 0.0f);
  if (largest(head.q, query, end) * largest(head.k, 0, end) < kSafe * kSafe) return;
  std::fill(shift, shift + kWide * kLanes, -3e38f);
  Tiles(s, query, [&](const Tile& tile) {
    Scores(s, tile, head.k, head.q, scores);
    for (int64_t vector = 0; vector < tile.vectors; ++vector) {
      Vector top = Load(shift + vector * kLanes);
      EachWeight(tile, vector, [&](int64_t at, auto visible) {
        const Vector y = Load(scores + at), one = visible(Vector{} + 1.0f);
        top = (one > 0.0f) & (y > top) ? y : top;
      });
      Store(shift + vector * kLanes, top);
    }
  });
}

ffi::Error AttentionForward(ffi::ThreadPool pool, Array qkv, Array bias, Array gains, Array turns, Result y,
                            Result log_sum, float scale) {
  const Sizes s(qkv, *log_sum);
  ForEach(pool, s.Tasks(), [&](int64_t task) {
    Head head(s, task, qkv, bias, gains, turns, scale);
    constexpr int64_t kBlock = kWide * kLanes;
    Scratch scratch(head.Kept() + (kTile + s.width + 2) * kBlock);
    head.Prepare(scratch);
    float *scores = scratch.Take(kTile * kBlock), *out = scratch.Take(s.width * kBlock);
    float *shift = scratch.Take(kBlock), *sums = scratch.Take(kBlock);
    float* y_head = y->typed_data() + (head.run * s.batch + head.row) * s.times * s.heads * s.width + head.head * s.width;
    float* log_head = log_sum->typed_data() + task * s.times;
    for (int64_t query = 0; query < s.times; query += kBlock) {
      Shifts(head, query, scores, shift);
      std::fill(out, out + s.width * kBlock, 0.0f);
      std::fill(sums, sums + kBlock, 0.0f);
      Tiles(s, query, [&](const Tile& tile) {
        Scores(s, tile, head.k, head.q, scores);
        for (int64_t vector = 0; vector < tile.vectors; ++vector) {
          const Vector top = Load(shift + vector * kLanes);
          Vector sum = Load(sums + vector * kLanes);
          EachWeight(tile, vector, [&](int64_t at, auto visible) {
            const Vector p = visible(Exp2(Load(scores + at) - top));
            Store(scores + at, p);
            sum += p;
          });
          Store(sums + vector * kLanes, sum);
        }
        SumOverKeys(s, tile, head.v, scores, out, kBlock);
      });
      const int64_t count = std::min(kBlock, s.times - query);
      for (int64_t t = 0; t < count; ++t) log_head[query + t] = shift[t] + std::log2(sums[t]);
      for (int64_t t = 0; t < count; t += kLanes)
        for (int64_t k = 0; k < s.width; ++k)
          Store(out + k * kBlock + t, Load(out + k * kBlock + t) / Load(sums + t));
      Along(out, kBlock, s.width, count, y_head + query * s.heads * s.width, s.heads * s.width, false);
    }
  });
  return ffi::Error::Success();
}

// Gradients of one head. `d_qkv`: its first row; `d_bias`: 3 x K; `d_gain`: 2 x K.
void HeadBackward(Head& head, const float* y, const float* log_sum, const float* d_y, float* d_qkv, float* d_bias,
                  float* d_gain) {
  const Sizes& s = head.s;
  constexpr int64_t kBlock = kWide * kLanes;
  const int64_t size = s.width * s.ld, apart = s.heads * s.width, along = s.times * s.columns;
  const int64_t whole = (along + kLanes - 1) / kLanes * kLanes;
  Scratch scratch(head.Kept() + 3 * size + 4 * whole + 2 * s.ld + 2 * kTile * kBlock + 2 * s.width * kLanes);
  head.Prepare(scratch);
  float *d_y_across = scratch.Take(size), *d_q = scratch.Take(size), *d_k = scratch.Take(size);
  float *q_along = scratch.Take(whole), *d_y_along = scratch.Take(whole);
  float *d_k_along = scratch.Take(whole), *d_v_along = scratch.Take(whole);
  float *logs = scratch.Take(s.ld), *dots = scratch.Take(s.ld), *sums = scratch.Take(2 * s.width * kLanes);
  float *weights = scratch.Take(kTile * kBlock), *d_scores = scratch.Take(kTile * kBlock);

  Across(s, y, apart, nullptr, d_q);  // for the dots alone
  Across(s, d_y, apart, nullptr, d_y_across);
  for (int64_t t = 0; t < s.vectors * kLanes; t += kLanes) {
    Vector dot = {};
    for (int64_t k = 0; k < s.width; ++k) dot += Load(d_q + k * s.ld + t) * Load(d_y_across + k * s.ld + t);
    Store(dots + t, dot);
  }
  std::fill(d_q, d_q + size, 0.0f);
  std::fill(logs, logs + s.ld, 0.0f);
  std::copy(log_sum, log_sum + s.times, logs);
  Along(head.q, s.ld, s.width, s.times, q_along, s.columns, true);
  Along(d_y_across, s.ld, s.width, s.times, d_y_along, s.columns, true);
  std::fill(d_k_along, d_k_along + along, 0.0f);
  std::fill(d_v_along, d_v_along + along, 0.0f);
  for (int64_t query = 0; query < s.times; query += kBlock)
    Tiles(s, query, [&](const Tile& tile) {
      Scores(s, tile, head.k, head.q, weights);
      Scores(s, tile, head.v, d_y_across, d_scores);
      for (int64_t vector = 0; vector < tile.vectors; ++vector) {
        const Vector log = Load(logs + query + vector * kLanes), dot = Load(dots + query + vector * kLanes);
        EachWeight(tile, vector, [&](int64_t at, auto visible) {
          const Vector p = visible(Exp2(Load(weights + at) - log));
          Store(weights + at, p);
          Store(d_scores + at, p * (Load(d_scores + at) - dot));
        });
      }
      SumOverQueries(s, tile, weights, d_y_along, s.columns, d_v_along);
      SumOverQueries(s, tile, d_scores, q_along, s.columns, d_k_along);
      SumOverKeys(s, tile, head.k, d_scores, d_q + query, s.ld);
    });

  Across(s, d_k_along, s.columns, nullptr, d_k);
  for (int64_t i = 0; i < size; ++i) d_q[i] *= head.turn_q.factor * kLn2, d_k[i] *= kLn2;
  std::fill(sums, sums + 2 * s.width * kLanes, 0.0f);
  head.turn_q.Backward(s, head.raw_q, head.root_q, d_q, sums);
  head.turn_k.Backward(s, head.raw_k, head.root_k, d_k, sums + s.width * kLanes);
  Along(d_q, s.ld, s.width, s.times, d_qkv, s.step, false);
  Along(d_k, s.ld, s.width, s.times, d_qkv + apart, s.step, false);
  for (int64_t k = 0; k < 2 * s.width; ++k) d_gain[k] = Sum(Load(sums + k * kLanes));
  std::fill(d_bias, d_bias + 3 * s.width, 0.0f);
  for (int64_t t = 0; t < s.times; ++t)
    for (int64_t k = 0; k < s.width; ++k) {
      d_qkv[t * s.step + 2 * apart + k] = d_v_along[t * s.columns + k];
      d_bias[2 * s.width + k] += d_v_along[t * s.columns + k];
    }
  for (int64_t k = 0; k < s.width; ++k)
    for (int64_t t = 0; t < s.vectors; ++t) {
      d_bias[k] += Sum(Load(d_q + k * s.ld + t * kLanes));
      d_bias[s.width + k] += Sum(Load(d_k + k * s.ld + t * kLanes));
    }
}

ffi::Error AttentionBackward(ffi::ThreadPool pool, Array qkv, Array bias, Array gains, Array turns, Array y,
                             Array log_sum, Array d_y, Result d_qkv, Result d_bias, Result d_gains, float scale) {
  const Sizes s(qkv, log_sum);
  std::vector<float> parts(s.Tasks() * 5 * s.width);
  ForEach(pool, s.Tasks(), [&](int64_t task) {
    Head head(s, task, qkv, bias, gains, turns, scale);
    const int64_t row = (head.run * s.batch + head.row) * s.times, column = head.head * s.width;
    const int64_t at = row * s.heads * s.width + column;
    float* part = parts.data() + task * 5 * s.width;
    HeadBackward(head, y.typed_data() + at, log_sum.typed_data() + task * s.times, d_y.typed_data() + at,
                 d_qkv->typed_data() + row * s.step + column, part, part + 3 * s.width);
  });
  std::fill(d_bias->typed_data(), d_bias->typed_data() + d_bias->element_count(), 0.0f);
  std::fill(d_gains->typed_data(), d_gains->typed_data() + d_gains->element_count(), 0.0f);
  for (int64_t task = 0; task < s.Tasks(); ++task) {
    const int64_t run = task / (s.batch * s.heads), head = task % s.heads, K = s.width;
    const float* part = parts.data() + task * 5 * K;
    for (int64_t i = 0; d_bias->element_count() && i < 3 * K; ++i)
      d_bias->typed_data()[run * s.step + (i / K * s.heads + head) * K + i % K] += part[i];
    for (int64_t i = 0; d_gains->element_count() && i < 2 * K; ++i)
      d_gains->typed_data()[run * 2 * K + i] += part[3 * K + i];
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace seqjax

#define IN .Arg<seqjax::Array>()
#define OUT .Ret<seqjax::Array>()
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    attention_forward, seqjax::AttentionForward,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN OUT OUT.Attr<float>("scale"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    attention_backward, seqjax::AttentionBackward,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN IN IN IN OUT OUT OUT.Attr<float>("scale"));
