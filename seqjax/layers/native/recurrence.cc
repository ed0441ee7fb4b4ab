// Elman, LSTM and GRU through time on a CPU, forward and backward, as XLA custom calls in float32.
//
// XLA runs one time step as half a dozen small kernels on one core. Here a thread takes a block of the batch's rows
// through all T steps: rows are independent of one another, so nothing is waited for until the sequence ends, and the
// state and one panel of the weights stay in its cache.
//
// Every array may have leading axes (runs of a bundle, written R): [R..., T, B, H]. Gates are as in the Python files:
// LSTM i, f, g, o; GRU r, z, n with the reset gate after the product.

#include "common.h"

namespace seqjax {
namespace {

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
      Multiply({before, H, 1}, packed, H, H, now, H, count, true);
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
      }
      Multiply({delta, H, 1}, packed, H, H, back, H, count, false);
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
      Multiply({h_before, H, 1}, packed, H, G, gates, G, count, true);
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
        }
      }
      Multiply({deltas, G, 1}, packed, G, H, h_back, H, count, false);
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
      Multiply({h_before, H, 1}, packed, H, G, gates_h.data(), G, count, true);
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
      Multiply({deltas, G, 1}, packed, G, H, back, H, count, true);
    }
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace seqjax

#define IN .Arg<seqjax::Array>()
#define OUT .Ret<seqjax::Array>()
XLA_FFI_DEFINE_HANDLER_SYMBOL(elman_forward, seqjax::ElmanForward, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(elman_backward, seqjax::ElmanBackward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN OUT OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_forward, seqjax::LstmForward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN OUT OUT OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_backward, seqjax::LstmBackward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN IN IN IN OUT OUT OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gru_forward, seqjax::GruForward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN OUT OUT OUT OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gru_backward, seqjax::GruBackward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>() IN IN IN IN IN IN IN IN OUT OUT OUT);
