// Elman, LSTM and GRU through time on a CPU, forward and backward, as XLA custom calls in float32.
//
// XLA runs one time step as half a dozen small kernels on one core. Here a thread takes a block of the batch's rows
// through all T steps: rows are independent of one another, so nothing is waited for until the sequence ends, and the
// state and one panel of the weights stay in its cache. Of each row, sums run over k in order, whatever the blocks are:
// results do not depend on the number of threads.
//
// Every array may have leading axes (runs of a bundle, written R): [R..., T, B, H]. Gates are as in the Python files:
// LSTM i, f, g, o; GRU r, z, n with the reset gate after the product.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;

namespace {

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
constexpr int kPanel = 3 * kLanes;  // columns of a panel: kTall x 3 sums and the operands fill the registers
typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4)));

inline Vector Load(const float* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void Store(float* p, Vector v) { std::memcpy(p, &v, sizeof v); }

// A KxN matrix cut into panels of kPanel columns, each contiguous, the last one filled up with zeros.
struct Packed {
  int64_t k, n;
  std::vector<float> data;

  // `transposed`: the source is NxK.
  Packed(const float* source, int64_t k, int64_t n, bool transposed) : k(k), n(n) {
    const int64_t panels = (n + kPanel - 1) / kPanel;
    data.assign(panels * k * kPanel + kLanes, 0.0f);
    for (int64_t panel = 0; panel < panels; ++panel) {
      float* to = data.data() + panel * k * kPanel;
      const int64_t first = panel * kPanel, columns = std::min<int64_t>(kPanel, n - first);
      for (int64_t i = 0; i < k; ++i)
        for (int64_t j = 0; j < columns; ++j)
          to[i * kPanel + j] = transposed ? source[(first + j) * k + i] : source[i * n + first + j];
    }
  }
};

// out[r, :] += a[r, :] W of one panel, for kRows rows.
template <int kRows>
inline void MultiplyPanel(const float* a, int64_t lda, const float* w, int64_t k, float* out, int64_t ldo) {
  Vector sum[kRows][3];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < 3; ++c) sum[r][c] = Load(out + r * ldo + c * kLanes);
  for (int64_t i = 0; i < k; ++i) {
    const Vector w0 = Load(w + i * kPanel), w1 = Load(w + i * kPanel + kLanes), w2 = Load(w + i * kPanel + 2 * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const float x = a[r * lda + i];
      sum[r][0] += x * w0;
      sum[r][1] += x * w1;
      sum[r][2] += x * w2;
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < 3; ++c) Store(out + r * ldo + c * kLanes, sum[r][c]);
}

template <int kRows>
inline int64_t MultiplyRows(const float*& a, int64_t lda, const float* w, int64_t k, float*& out, int64_t ldo,
                            int64_t rows) {
  for (; rows >= kRows; rows -= kRows) {
    MultiplyPanel<kRows>(a, lda, w, k, out, ldo);
    a += kRows * lda;
    out += kRows * ldo;
  }
  return rows;
}

// out[rows, n] += a[rows, k] W
void Multiply(const float* a, int64_t lda, const Packed& w, float* out, int64_t ldo, int64_t rows) {
  float narrow[16 * kPanel];
  for (int64_t first = 0; first < w.n; first += kPanel) {
    const float* panel = w.data.data() + first * w.k;
    const int64_t columns = std::min<int64_t>(kPanel, w.n - first);
    if (columns == kPanel) {
      const float* from = a;
      float* to = out + first;
      int64_t left = MultiplyRows<kTall>(from, lda, panel, w.k, to, ldo, rows);
      left = MultiplyRows<4>(from, lda, panel, w.k, to, ldo, left);
      left = MultiplyRows<2>(from, lda, panel, w.k, to, ldo, left);
      MultiplyRows<1>(from, lda, panel, w.k, to, ldo, left);
      continue;
    }
    for (int64_t row = 0; row < rows; row += kTall) {
      const int64_t block = std::min<int64_t>(kTall, rows - row);
      for (int64_t r = 0; r < block; ++r)
        std::memcpy(narrow + r * kPanel, out + (row + r) * ldo + first, columns * sizeof(float));
      const float* from = a + row * lda;
      float* to = narrow;
      int64_t left = MultiplyRows<kTall>(from, lda, panel, w.k, to, kPanel, block);
      left = MultiplyRows<4>(from, lda, panel, w.k, to, kPanel, left);
      left = MultiplyRows<2>(from, lda, panel, w.k, to, kPanel, left);
      MultiplyRows<1>(from, lda, panel, w.k, to, kPanel, left);
      for (int64_t r = 0; r < block; ++r)
        std::memcpy(out + (row + r) * ldo + first, narrow + r * kPanel, columns * sizeof(float));
    }
  }
}

// -------------------------------------------------------------------------------------------------------- parallelism

// Call work(0) .. work(count - 1) on the pool and on this thread. This thread takes what the others have not begun, so
// that it never waits for a thread that may be waiting for it.
void ForEach(ffi::ThreadPool& pool, int64_t count, std::function<void(int64_t)> work) {
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

struct Shape {
  int64_t runs, times, batch, hidden;

  // Of an array [R..., T, B, H].
  explicit Shape(const Array& h_TxBxH) {
    const auto dims = h_TxBxH.dimensions();
    const size_t rank = dims.size();
    hidden = dims[rank - 1], batch = dims[rank - 2], times = dims[rank - 3], runs = 1;
    for (size_t i = 0; i + 3 < rank; ++i) runs *= dims[i];
  }
};

// Rows of one run that one thread takes through time.
struct Rows {
  int64_t run, first, count;
};

// work(rows, packed weights of the run) for all rows of all runs.
void ForRows(ffi::ThreadPool& pool, const Shape& s, const float* w, int64_t k, int64_t n, bool transposed,
             const std::function<void(const Rows&, const Packed&)>& work) {
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  const int64_t blocks = std::max<int64_t>(1, std::min(s.batch, (threads + s.runs - 1) / s.runs));
  const int64_t rows = (s.batch + blocks - 1) / blocks;
  std::vector<std::unique_ptr<Packed>> packed(s.runs);
  ForEach(pool, s.runs, [&](int64_t run) {
    packed[run] = std::make_unique<Packed>(w + run * k * n, k, n, transposed);
  });
  ForEach(pool, s.runs * blocks, [&](int64_t i) {
    const int64_t run = i / blocks, first = (i % blocks) * rows;
    if (first < s.batch) work({run, first, std::min(rows, s.batch - first)}, *packed[run]);
  });
}

// Pointer to row `row` of step `t` of run `run` in an array [R, T, B, width].
template <typename Pointer>
Pointer At(Pointer base, const Shape& s, int64_t width, int64_t run, int64_t t, int64_t row) {
  return base + ((run * s.times + t) * s.batch + row) * width;
}

// The same in an array [R, B, width].
template <typename Pointer>
Pointer At(Pointer base, const Shape& s, int64_t width, int64_t run, int64_t row) {
  return base + (run * s.batch + row) * width;
}

void Copy(float* to, const float* from, int64_t count) { std::memcpy(to, from, count * sizeof(float)); }

// -------------------------------------------------------------------------------------------------------------- Elman

ffi::Error ElmanForward(ffi::ThreadPool pool, Array gates_x, Array w, Array h0, Result h) {
  const Shape s(*h);
  const int64_t H = s.hidden;
  ForRows(pool, s, w.typed_data(), H, H, false, [&](const Rows& rows, const Packed& packed) {
    const auto [run, first, count] = rows;
    const float* before = At(h0.typed_data(), s, H, run, first);
    for (int64_t t = 0; t < s.times; ++t) {
      float* now = At(h->typed_data(), s, H, run, t, first);
      Copy(now, At(gates_x.typed_data(), s, H, run, t, first), count * H);
      Multiply(before, H, packed, now, H, count);
#pragma GCC ivdep
      for (int64_t i = 0; i < count * H; ++i) now[i] = Tanh(now[i]);
      before = now;
    }
  });
  return ffi::Error::Success();
}

ffi::Error ElmanBackward(ffi::ThreadPool pool, Array h, Array w, Array d_h, Array d_last, Result d_gates, Result d_h0) {
  const Shape s(h);
  const int64_t H = s.hidden;
  ForRows(pool, s, w.typed_data(), H, H, true, [&](const Rows& rows, const Packed& packed) {
    const auto [run, first, count] = rows;
    float* back = At(d_h0->typed_data(), s, H, run, first);
    Copy(back, At(d_last.typed_data(), s, H, run, first), count * H);
    for (int64_t t = s.times - 1; t >= 0; --t) {
      const float* out = At(d_h.typed_data(), s, H, run, t, first);
      const float* now = At(h.typed_data(), s, H, run, t, first);
      float* delta = At(d_gates->typed_data(), s, H, run, t, first);
#pragma GCC ivdep
      for (int64_t i = 0; i < count * H; ++i) {
        delta[i] = (back[i] + out[i]) * (1.0f - now[i] * now[i]);
        back[i] = 0.0f;
      }
      Multiply(delta, H, packed, back, H, count);
    }
  });
  return ffi::Error::Success();
}

// --------------------------------------------------------------------------------------------------------------- LSTM

ffi::Error LstmForward(ffi::ThreadPool pool, Array gates_x, Array w, Array h0, Array c0, Result h, Result c,
                       Result kept) {
  const Shape s(*h);
  const int64_t H = s.hidden, G = 4 * H;
  ForRows(pool, s, w.typed_data(), H, G, false, [&](const Rows& rows, const Packed& packed) {
    const auto [run, first, count] = rows;
    const float* h_before = At(h0.typed_data(), s, H, run, first);
    const float* c_before = At(c0.typed_data(), s, H, run, first);
    for (int64_t t = 0; t < s.times; ++t) {
      float* gates = At(kept->typed_data(), s, G, run, t, first);
      float* h_now = At(h->typed_data(), s, H, run, t, first);
      float* c_now = At(c->typed_data(), s, H, run, t, first);
      Copy(gates, At(gates_x.typed_data(), s, G, run, t, first), count * G);
      Multiply(h_before, H, packed, gates, G, count);
      for (int64_t r = 0; r < count; ++r) {
        float *i = gates + r * G, *f = i + H, *g = f + H, *o = g + H;
#pragma GCC ivdep
        for (int64_t j = 0; j < H; ++j) {
          i[j] = Sigmoid(i[j]);
          f[j] = Sigmoid(f[j]);
          g[j] = Tanh(g[j]);
          o[j] = Sigmoid(o[j]);
          const float cell = f[j] * c_before[r * H + j] + i[j] * g[j];
          c_now[r * H + j] = cell;
          h_now[r * H + j] = o[j] * Tanh(cell);
        }
      }
      h_before = h_now;
      c_before = c_now;
    }
  });
  return ffi::Error::Success();
}

ffi::Error LstmBackward(ffi::ThreadPool pool, Array kept, Array w, Array c0, Array c, Array d_h, Array d_h_last,
                        Array d_c_last, Result d_gates, Result d_h0, Result d_c0) {
  const Shape s(c);
  const int64_t H = s.hidden, G = 4 * H;
  ForRows(pool, s, w.typed_data(), G, H, true, [&](const Rows& rows, const Packed& packed) {
    const auto [run, first, count] = rows;
    float* h_back = At(d_h0->typed_data(), s, H, run, first);
    float* c_back = At(d_c0->typed_data(), s, H, run, first);
    Copy(h_back, At(d_h_last.typed_data(), s, H, run, first), count * H);
    Copy(c_back, At(d_c_last.typed_data(), s, H, run, first), count * H);
    for (int64_t t = s.times - 1; t >= 0; --t) {
      const float* out = At(d_h.typed_data(), s, H, run, t, first);
      const float* gates = At(kept.typed_data(), s, G, run, t, first);
      const float* c_now = At(c.typed_data(), s, H, run, t, first);
      const float* c_before =
          t ? At(c.typed_data(), s, H, run, t - 1, first) : At(c0.typed_data(), s, H, run, first);
      float* deltas = At(d_gates->typed_data(), s, G, run, t, first);
      for (int64_t r = 0; r < count; ++r) {
        const float *i = gates + r * G, *f = i + H, *g = f + H, *o = g + H;
        float *di = deltas + r * G, *df = di + H, *dg = df + H, *d_o = dg + H;
#pragma GCC ivdep
        for (int64_t j = 0; j < H; ++j) {
          const int64_t at = r * H + j;
          const float tanh_c = Tanh(c_now[at]), dh = h_back[at] + out[at];
          const float dc = c_back[at] + dh * o[j] * (1.0f - tanh_c * tanh_c);
          di[j] = dc * g[j] * i[j] * (1.0f - i[j]);
          df[j] = dc * c_before[at] * f[j] * (1.0f - f[j]);
          dg[j] = dc * i[j] * (1.0f - g[j] * g[j]);
          d_o[j] = dh * tanh_c * o[j] * (1.0f - o[j]);
          c_back[at] = dc * f[j];
          h_back[at] = 0.0f;
        }
      }
      Multiply(deltas, G, packed, h_back, H, count);
    }
  });
  return ffi::Error::Success();
}

// ---------------------------------------------------------------------------------------------------------------- GRU

ffi::Error GruForward(ffi::ThreadPool pool, Array gates_x, Array w, Array b_hn, Array h0, Result h, Result rz, Result n,
                      Result n_h) {
  const Shape s(*h);
  const int64_t H = s.hidden, G = 3 * H;
  ForRows(pool, s, w.typed_data(), H, G, false, [&](const Rows& rows, const Packed& packed) {
    const auto [run, first, count] = rows;
    const float* h_before = At(h0.typed_data(), s, H, run, first);
    const float* bias = b_hn.typed_data() + run * H;
    std::vector<float> gates_h(count * G);
    for (int64_t t = 0; t < s.times; ++t) {
      const float* x = At(gates_x.typed_data(), s, G, run, t, first);
      float* h_now = At(h->typed_data(), s, H, run, t, first);
      for (int64_t r = 0; r < count; ++r) {
        Copy(gates_h.data() + r * G, x + r * G, 2 * H);
        Copy(gates_h.data() + r * G + 2 * H, bias, H);
      }
      Multiply(h_before, H, packed, gates_h.data(), G, count);
      for (int64_t r = 0; r < count; ++r) {
        float* r_now = At(rz->typed_data(), s, 2 * H, run, t, first + r);
        float* z_now = r_now + H;
        float* n_now = At(n->typed_data(), s, H, run, t, first + r);
        float* n_h_now = At(n_h->typed_data(), s, H, run, t, first + r);
        const float* gates = gates_h.data() + r * G;
#pragma GCC ivdep
        for (int64_t j = 0; j < H; ++j) {
          r_now[j] = Sigmoid(gates[j]);
          z_now[j] = Sigmoid(gates[H + j]);
          n_h_now[j] = gates[2 * H + j];
          n_now[j] = Tanh(x[r * G + 2 * H + j] + r_now[j] * n_h_now[j]);
          h_now[r * H + j] = n_now[j] + z_now[j] * (h_before[r * H + j] - n_now[j]);
        }
      }
      h_before = h_now;
    }
  });
  return ffi::Error::Success();
}

ffi::Error GruBackward(ffi::ThreadPool pool, Array h0, Array h, Array rz, Array n, Array n_h, Array w, Array d_h,
                       Array d_last, Result d_gates_h, Result d_h_all, Result d_h0) {
  const Shape s(h);
  const int64_t H = s.hidden, G = 3 * H;
  ForRows(pool, s, w.typed_data(), G, H, true, [&](const Rows& rows, const Packed& packed) {
    const auto [run, first, count] = rows;
    float* back = At(d_h0->typed_data(), s, H, run, first);
    Copy(back, At(d_last.typed_data(), s, H, run, first), count * H);
    for (int64_t t = s.times - 1; t >= 0; --t) {
      const float* out = At(d_h.typed_data(), s, H, run, t, first);
      const float* h_before =
          t ? At(h.typed_data(), s, H, run, t - 1, first) : At(h0.typed_data(), s, H, run, first);
      float* deltas = At(d_gates_h->typed_data(), s, G, run, t, first);
      float* d_now = At(d_h_all->typed_data(), s, H, run, t, first);
      for (int64_t r = 0; r < count; ++r) {
        const float* r_now = At(rz.typed_data(), s, 2 * H, run, t, first + r);
        const float* z_now = r_now + H;
        const float* n_now = At(n.typed_data(), s, H, run, t, first + r);
        const float* n_h_now = At(n_h.typed_data(), s, H, run, t, first + r);
        float* delta = deltas + r * G;
#pragma GCC ivdep
        for (int64_t j = 0; j < H; ++j) {
          const int64_t at = r * H + j;
          const float dh = back[at] + out[at], reset = r_now[j], z = z_now[j], candidate = n_now[j];
          const float dn = dh * (1.0f - z) * (1.0f - candidate * candidate);
          d_now[at] = dh;
          delta[j] = dn * n_h_now[j] * reset * (1.0f - reset);
          delta[H + j] = dh * (h_before[at] - candidate) * z * (1.0f - z);
          delta[2 * H + j] = dn * reset;
          back[at] = dh * z;
        }
      }
      Multiply(deltas, G, packed, back, H, count);
    }
  });
  return ffi::Error::Success();
}

}  // namespace

#define IN .Arg<Array>()
#define OUT .Ret<Array>()
XLA_FFI_DEFINE_HANDLER_SYMBOL(elman_forward, ElmanForward, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(elman_backward, ElmanBackward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN OUT OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_forward, LstmForward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN OUT OUT OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_backward, LstmBackward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN IN IN IN OUT OUT OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gru_forward, GruForward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN OUT OUT OUT OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gru_backward, GruBackward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN IN IN IN IN OUT OUT OUT);
