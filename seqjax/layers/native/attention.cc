// Causal attention on a CPU, forward and backward, as XLA custom calls in float32.
//
// One head at a time on each thread, its queries in blocks of kRows: a block sees the keys up to its own end and no
// others, so the half above the diagonal costs nothing, and T x T scores are never held. The backward pass computes the
// weights again from the logarithm of their sum (Dao et al. 2022, arXiv 2205.14135, section 3.1).
//
// Every array is [..., T, K], the logarithms [..., T]; all leading axes are heads.

#include "common.h"

namespace seqjax {
namespace {

constexpr int64_t kRows = 64;

struct Heads {
  int64_t count, times, width;

  explicit Heads(const Array& q_TxK) {
    const auto dims = q_TxK.dimensions();
    width = dims[dims.size() - 1], times = dims[dims.size() - 2], count = 1;
    for (size_t i = 0; i + 2 < dims.size(); ++i) count *= dims[i];
  }
};

// Of one row of scores, seen up to and with `seen`: exp(score - shift); zero for the rest. Returns their sum.
float Weights(float* scores, int64_t seen, int64_t end, float scale, float shift) {
  float sum = 0.0f;
  float part[kLanes] = {};
  int64_t s = 0;
  for (; s + kLanes <= seen; s += kLanes)
#pragma GCC ivdep
    for (int lane = 0; lane < kLanes; ++lane) {
      scores[s + lane] = Exp(scale * scores[s + lane] - shift);
      part[lane] += scores[s + lane];
    }
  for (; s < seen; ++s) {
    scores[s] = Exp(scale * scores[s] - shift);
    sum += scores[s];
  }
  for (int lane = 0; lane < kLanes; ++lane) sum += part[lane];
  std::fill(scores + seen, scores + end, 0.0f);
  return sum;
}

float Largest(const float* scores, int64_t seen) {
  float part[kLanes];
  std::fill(part, part + kLanes, scores[0]);
  int64_t s = 0;
  for (; s + kLanes <= seen; s += kLanes)
#pragma GCC ivdep
    for (int lane = 0; lane < kLanes; ++lane) part[lane] = part[lane] > scores[s + lane] ? part[lane] : scores[s + lane];
  float top = part[0];
  for (int lane = 1; lane < kLanes; ++lane) top = part[lane] > top ? part[lane] : top;
  for (; s < seen; ++s) top = scores[s] > top ? scores[s] : top;
  return top;
}

ffi::Error AttentionForward(ffi::ThreadPool pool, Array q, Array k, Array v, Result y, Result log_sum) {
  const Heads heads(q);
  const int64_t T = heads.times, K = heads.width;
  const float scale = 1.0f / std::sqrt(static_cast<float>(K));
  ForEach(pool, heads.count, [&](int64_t head) {
    const float* q_head = q.typed_data() + head * T * K;
    float *y_head = y->typed_data() + head * T * K, *log_head = log_sum->typed_data() + head * T;
    const Packed keys(k.typed_data() + head * T * K, K, T, true), values(v.typed_data() + head * T * K, T, K, false);
    std::vector<float> scores(kRows * T);
    for (int64_t first = 0; first < T; first += kRows) {
      const int64_t end = std::min(first + kRows, T), rows = end - first;
      Multiply({q_head + first * K, K, 1}, keys, K, end, scores.data(), T, rows, false);
      float sums[kRows];
      for (int64_t r = 0; r < rows; ++r) {
        float* row = scores.data() + r * T;
        const int64_t seen = first + r + 1;
        const float top = scale * Largest(row, seen);
        sums[r] = Weights(row, seen, end, scale, top);
        log_head[first + r] = top + std::log(sums[r]);
      }
      float* out = y_head + first * K;
      Multiply({scores.data(), T, 1}, values, end, K, out, K, rows, false);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < K; ++j) out[r * K + j] /= sums[r];
    }
  });
  return ffi::Error::Success();
}

ffi::Error AttentionBackward(ffi::ThreadPool pool, Array q, Array k, Array v, Array y, Array log_sum, Array d_y,
                             Result d_q, Result d_k, Result d_v) {
  const Heads heads(q);
  const int64_t T = heads.times, K = heads.width;
  const float scale = 1.0f / std::sqrt(static_cast<float>(K));
  ForEach(pool, heads.count, [&](int64_t head) {
    const int64_t offset = head * T * K;
    const float *q_head = q.typed_data() + offset, *y_head = y.typed_data() + offset;
    const float *d_y_head = d_y.typed_data() + offset, *log_head = log_sum.typed_data() + head * T;
    float *d_q_head = d_q->typed_data() + offset, *d_k_head = d_k->typed_data() + offset;
    float* d_v_head = d_v->typed_data() + offset;
    const Packed keys_across(k.typed_data() + offset, K, T, true), keys(k.typed_data() + offset, T, K, false);
    const Packed values_across(v.typed_data() + offset, K, T, true);
    std::fill(d_k_head, d_k_head + T * K, 0.0f);
    std::fill(d_v_head, d_v_head + T * K, 0.0f);
    std::vector<float> weights(kRows * T), d_scores(kRows * T);
    for (int64_t first = 0; first < T; first += kRows) {
      const int64_t end = std::min(first + kRows, T), rows = end - first;
      const Left q_rows{q_head + first * K, K, 1}, d_y_rows{d_y_head + first * K, K, 1};
      Multiply(q_rows, keys_across, K, end, weights.data(), T, rows, false);
      Multiply(d_y_rows, values_across, K, end, d_scores.data(), T, rows, false);
      for (int64_t r = 0; r < rows; ++r) {
        float *weight = weights.data() + r * T, *d_score = d_scores.data() + r * T;
        Weights(weight, first + r + 1, end, scale, log_head[first + r]);
        float dot = 0.0f;
        for (int64_t j = 0; j < K; ++j) dot += d_y_rows.data[r * K + j] * y_head[(first + r) * K + j];
#pragma GCC ivdep
        for (int64_t s = 0; s < end; ++s) d_score[s] = weight[s] * (d_score[s] - dot) * scale;
      }
      Multiply({d_scores.data(), T, 1}, keys, end, K, d_q_head + first * K, K, rows, false);
      Multiply({d_scores.data(), 1, T}, Packed(q_rows.data, rows, K, false), rows, K, d_k_head, K, end, true);
      Multiply({weights.data(), 1, T}, Packed(d_y_rows.data, rows, K, false), rows, K, d_v_head, K, end, true);
    }
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace seqjax

#define IN .Arg<seqjax::Array>()
#define OUT .Ret<seqjax::Array>()
XLA_FFI_DEFINE_HANDLER_SYMBOL(attention_forward, seqjax::AttentionForward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN OUT OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(attention_backward, seqjax::AttentionBackward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN IN IN OUT OUT OUT);
