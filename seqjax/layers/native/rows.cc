// What a Transformer does to each row of its activations, in one pass each way: norms, and activations of the MLP with
// their biases. XLA custom calls in float32.
//
// Arrays are [R..., B, T, D], parameters [R..., D]: leading axes are runs of a bundle. A task is a block of kRows rows;
// sums over rows are made in each block, and then in the order of the blocks, whatever the number of threads.

#include "common.h"

namespace seqjax {
namespace {

constexpr int64_t kRows = 64;

inline Vector SigmoidOf(Vector x) {
  const Vector y = x * -kLog2E;
  return 1.0f / (1.0f + Exp2(y > 126.0f ? Vector{} + 126.0f : y));
}

struct Rows {
  int64_t runs, rows, width;

  explicit Rows(const Array& x_BxTxD) {
    const auto dims = x_BxTxD.dimensions();
    const size_t rank = dims.size();
    width = dims[rank - 1], rows = dims[rank - 2] * dims[rank - 3], runs = 1;
    for (size_t i = 0; i + 3 < rank; ++i) runs *= dims[i];
  }

  int64_t Blocks() const { return (rows + kRows - 1) / kRows; }
};

// The parameters of a run; null if there are none.
const float* OfRun(const Array& parameters, const Rows& s, int64_t run) {
  const int64_t count = parameters.element_count() / s.runs;
  return count ? parameters.typed_data() + run * count : nullptr;
}

// work(run, first row among all, end row, sums of the block) for all blocks; then out[run] = the sums of its blocks.
template <typename Work>
void ForBlocks(ffi::ThreadPool& pool, const Rows& s, int64_t width, float* out, Work work) {
  const int64_t blocks = s.Blocks();
  std::vector<float> sums(s.runs * blocks * width, 0.0f);
  ForEach(pool, s.runs * blocks, [&](int64_t task) {
    const int64_t run = task / blocks, first = task % blocks * kRows;
    work(run, run * s.rows + first, run * s.rows + std::min(first + kRows, s.rows), sums.data() + task * width);
  });
  std::fill(out, out + s.runs * width, 0.0f);
  for (int64_t task = 0; task < s.runs * blocks; ++task)
    for (int64_t j = 0; j < width; ++j) out[task / blocks * width + j] += sums[task * width + j];
}

inline void Add(float* sums, Vector v, int64_t count) { StoreSome(sums, LoadSome(sums, count) + v, count); }

inline Vector Biased(const float* row, const float* bias, int64_t j, int64_t left) {
  return bias ? LoadSome(row + j, left) + LoadSome(bias + j, left) : LoadSome(row + j, left);
}

// --------------------------------------------------------------------------------------------------------- activations

// h = silu(g) a of u = [g, a] with biases.
ffi::Error SwigluForward(ffi::ThreadPool pool, Array u, Array bias, Result h) {
  const Rows s(*h);
  const int64_t F = s.width;
  ForBlocks(pool, s, 0, nullptr, [&](int64_t run, int64_t row, int64_t end, float*) {
    const float* b = OfRun(bias, s, run);
    for (; row < end; ++row) {
      const float* in = u.typed_data() + row * 2 * F;
      float* out = h->typed_data() + row * F;
      for (int64_t j = 0; j < F; j += kLanes) {
        const Vector g = Biased(in, b, j, F - j), a = Biased(in + F, b ? b + F : b, j, F - j);
        StoreSome(out + j, g * SigmoidOf(g) * a, F - j);
      }
    }
  });
  return ffi::Error::Success();
}

ffi::Error SwigluBackward(ffi::ThreadPool pool, Array u, Array bias, Array d_h, Result d_u, Result d_bias) {
  const Rows s(d_h);
  const int64_t F = s.width;
  const bool biased = d_bias->element_count();
  ForBlocks(pool, s, biased ? 2 * F : 0, d_bias->typed_data(), [&](int64_t run, int64_t row, int64_t end, float* sums) {
    const float* b = OfRun(bias, s, run);
    for (; row < end; ++row) {
      const float *in = u.typed_data() + row * 2 * F, *d = d_h.typed_data() + row * F;
      float* out = d_u->typed_data() + row * 2 * F;
      for (int64_t j = 0; j < F; j += kLanes) {
        const int64_t left = F - j;
        const Vector g = Biased(in, b, j, left), a = Biased(in + F, b ? b + F : b, j, left);
        const Vector sigmoid = SigmoidOf(g), dh = LoadSome(d + j, left);
        const Vector d_g = dh * a * sigmoid * (1.0f + g * (1.0f - sigmoid)), d_a = dh * g * sigmoid;
        StoreSome(out + j, d_g, left);
        StoreSome(out + F + j, d_a, left);
        if (biased) Add(sums + j, d_g, left), Add(sums + F + j, d_a, left);
      }
    }
  });
  return ffi::Error::Success();
}

// GELU in its tanh form: x sigmoid(2 c (x + 0.044715 x^3)) with c = sqrt(2 / pi).
constexpr float kTwice = 1.5957691216f, kCube = 0.044715f;

ffi::Error GeluForward(ffi::ThreadPool pool, Array u, Array bias, Result h) {
  const Rows s(*h);
  const int64_t F = s.width;
  ForBlocks(pool, s, 0, nullptr, [&](int64_t run, int64_t row, int64_t end, float*) {
    const float* b = OfRun(bias, s, run);
    for (; row < end; ++row)
      for (int64_t j = 0; j < F; j += kLanes) {
        const Vector x = Biased(u.typed_data() + row * F, b, j, F - j);
        StoreSome(h->typed_data() + row * F + j, x * SigmoidOf(kTwice * x * (1.0f + kCube * x * x)), F - j);
      }
  });
  return ffi::Error::Success();
}

ffi::Error GeluBackward(ffi::ThreadPool pool, Array u, Array bias, Array d_h, Result d_u, Result d_bias) {
  const Rows s(d_h);
  const int64_t F = s.width;
  const bool biased = d_bias->element_count();
  ForBlocks(pool, s, biased ? F : 0, d_bias->typed_data(), [&](int64_t run, int64_t row, int64_t end, float* sums) {
    const float* b = OfRun(bias, s, run);
    for (; row < end; ++row)
      for (int64_t j = 0; j < F; j += kLanes) {
        const int64_t left = F - j;
        const Vector x = Biased(u.typed_data() + row * F, b, j, left), square = x * x;
        const Vector sigmoid = SigmoidOf(kTwice * x * (1.0f + kCube * square));
        const Vector slope = sigmoid * (1.0f + (1.0f - sigmoid) * kTwice * x * (1.0f + 3.0f * kCube * square));
        const Vector d = LoadSome(d_h.typed_data() + row * F + j, left) * slope;
        StoreSome(d_u->typed_data() + row * F + j, d, left);
        if (biased) Add(sums + j, d, left);
      }
  });
  return ffi::Error::Success();
}

// --------------------------------------------------------------------------------------------------------------- norms

struct Moments {
  float mean, root;  // mean: 0 unless centred; root: 1 / sqrt(mean of (x - mean)^2 + 1e-5)

  Moments(const float* x, int64_t D, bool centred) : mean(0.0f) {
    Vector sum = {};
    for (int64_t j = 0; centred && j < D; j += kLanes) sum += LoadSome(x + j, D - j);
    if (centred) mean = Sum(sum) / D;
    Vector squares = {};
    for (int64_t j = 0; j < D; j += kLanes) squares += Centred(x, j, D) * Centred(x, j, D);
    root = 1.0f / std::sqrt(Sum(squares) / D + kEpsilon);
  }

  Vector Centred(const float* x, int64_t j, int64_t D) const {
    if (D - j >= kLanes) return Load(x + j) - mean;
    Vector v = LoadSome(x + j, D - j) - mean;
    for (int64_t lane = D - j; lane < kLanes; ++lane) v[lane] = 0.0f;
    return v;
  }
};

// y = gain (x - mean) root + bias.
ffi::Error NormForward(ffi::ThreadPool pool, Array x, Array gain, Array bias, Result y, float centred) {
  const Rows s(x);
  const int64_t D = s.width;
  ForBlocks(pool, s, 0, nullptr, [&](int64_t run, int64_t row, int64_t end, float*) {
    const float *g = OfRun(gain, s, run), *b = OfRun(bias, s, run);
    for (; row < end; ++row) {
      const float* in = x.typed_data() + row * D;
      float* out = y->typed_data() + row * D;
      const Moments moments(in, D, centred != 0.0f);
      for (int64_t j = 0; j < D; j += kLanes) {
        const Vector z = moments.Centred(in, j, D) * moments.root * LoadSome(g + j, D - j);
        StoreSome(out + j, b ? z + LoadSome(b + j, D - j) : z, D - j);
      }
    }
  });
  return ffi::Error::Success();
}

// d_x = d_pass + the gradient through the norm; the sums are those of the gain and, if there is one, of the bias.
ffi::Error NormBackward(ffi::ThreadPool pool, Array x, Array gain, Array bias, Array d_pass, Array d_y, Result d_x,
                        Result d_parameters, float centred) {
  const Rows s(x);
  const int64_t D = s.width, sums_width = d_parameters->element_count() / s.runs;
  ForBlocks(pool, s, sums_width, d_parameters->typed_data(), [&](int64_t run, int64_t row, int64_t end, float* sums) {
    const float* g = OfRun(gain, s, run);
    for (; row < end; ++row) {
      const float *in = x.typed_data() + row * D, *d = d_y.typed_data() + row * D;
      const float* pass = d_pass.typed_data() + row * D;
      float* out = d_x->typed_data() + row * D;
      const Moments moments(in, D, centred != 0.0f);
      Vector dot = {}, sum = {};
      for (int64_t j = 0; j < D; j += kLanes) {
        const Vector dy = LoadSome(d + j, D - j), normal = moments.Centred(in, j, D) * moments.root;
        const Vector scaled = dy * LoadSome(g + j, D - j);
        dot += scaled * normal, sum += scaled;
        Add(sums + j, dy * normal, D - j);
        if (bias.element_count()) Add(sums + D + j, dy, D - j);
      }
      const float along = Sum(dot) / D, level = centred != 0.0f ? Sum(sum) / D : 0.0f;
      for (int64_t j = 0; j < D; j += kLanes) {
        const Vector normal = moments.Centred(in, j, D) * moments.root;
        const Vector through = LoadSome(d + j, D - j) * LoadSome(g + j, D - j) - level - normal * along;
        StoreSome(out + j, LoadSome(pass + j, D - j) + moments.root * through, D - j);
      }
    }
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace seqjax

#define IN .Arg<seqjax::Array>()
#define OUT .Ret<seqjax::Array>()
#define BIND ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
XLA_FFI_DEFINE_HANDLER_SYMBOL(swiglu_forward, seqjax::SwigluForward, BIND IN IN OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(swiglu_backward, seqjax::SwigluBackward, BIND IN IN IN OUT OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gelu_forward, seqjax::GeluForward, BIND IN IN OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gelu_backward, seqjax::GeluBackward, BIND IN IN IN OUT OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(norm_forward, seqjax::NormForward, BIND IN IN IN OUT.Attr<float>("centred"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(norm_backward, seqjax::NormBackward, BIND IN IN IN IN IN OUT OUT.Attr<float>("centred"));
