/* What a cuDNN graph computes, for the stand-in (cudnn.cpp): operation after operation, on copies
 * of the tensors in float32. A value that passes on is not rounded; one that is also stored may be
 * or not, as fused kernels hold it in registers. Sums add to what is in memory, as cuDNN's own do.
 */
#include <cmath>

#include "cudnn_graph_run.h"

#define FREE_OF_CHECKS __attribute__((no_sanitize("address", "undefined")))

namespace executor
{

namespace
{

typedef std::vector<float> array; /* dense, channels innermost */

/* Channels, rows, columns and pictures of a tensor, by size and in memory. */
int64_t place(const int64_t *step, int64_t n, int64_t c, int64_t h, int64_t w)
{
    return n * step[0] + c * step[1] + h * step[2] + w * step[3];
}

template <typename F> void each(const cudnn_tensor &t, F f)
{
    int64_t i = 0;
    for (int64_t n = 0; n < t.size[0]; n++)
        for (int64_t h = 0; h < t.size[2]; h++)
            for (int64_t w = 0; w < t.size[3]; w++)
                for (int64_t c = 0; c < t.size[1]; c++)
                    f(i++, n, c, h, w);
}

array load(const cudnn_tensor &t, const void *memory)
{
    array a((size_t)t.count());
    each(t, [&](int64_t i, int64_t n, int64_t c, int64_t h, int64_t w) {
        a[(size_t)i] = load_element(memory, place(t.stride, n, c, h, w), t.type);
    });
    return a;
}

void store(const cudnn_tensor &t, void *memory, const array &a)
{
    each(t, [&](int64_t i, int64_t n, int64_t c, int64_t h, int64_t w) {
        store_element(memory, place(t.stride, n, c, h, w), t.type, a[(size_t)i]);
    });
}

/* ---- convolutions ---- */

struct geometry {
    int64_t n, h, w, in, oh, ow, out, kh, kw;
    const int64_t *stride, *pad;
};

geometry geometry_of(const cudnn_tensor &x, const cudnn_tensor &filter, const cudnn_tensor &y,
                     const cudnn_operation &op)
{
    return {x.size[0], x.size[2],      x.size[3],      x.size[1], y.size[2], y.size[3],
            y.size[1], filter.size[2], filter.size[3], op.stride, op.pad};
}

/* f(position of x, position of y, tap of the filter) for all that meet. */
template <typename F> FREE_OF_CHECKS void taps(const geometry &g, F f)
{
    for (int64_t n = 0; n < g.n; n++)
        for (int64_t oh = 0; oh < g.oh; oh++)
            for (int64_t ow = 0; ow < g.ow; ow++)
                for (int64_t kh = 0; kh < g.kh; kh++)
                    for (int64_t kw = 0; kw < g.kw; kw++) {
                        const int64_t h = oh * g.stride[0] - g.pad[0] + kh;
                        const int64_t w = ow * g.stride[1] - g.pad[1] + kw;
                        if (h < 0 || h >= g.h || w < 0 || w >= g.w) continue;
                        f((n * g.h + h) * g.w + w, (n * g.oh + oh) * g.ow + ow, kh * g.kw + kw);
                    }
}

/* sum[j] += a·b[j] */
FREE_OF_CHECKS inline void add_scaled(double *sum, double a, const float *b, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        sum[j] += a * b[j];
}

FREE_OF_CHECKS array forward(const geometry &g, const array &x, const array &filter)
{
    const int64_t all = g.kh * g.kw;
    array turned(filter.size()); /* tap, in, out */
    std::vector<double> y((size_t)(g.n * g.oh * g.ow * g.out));

    for (int64_t o = 0; o < g.out; o++)
        for (int64_t k = 0; k < all * g.in; k++)
            turned[(size_t)(k * g.out + o)] = filter[(size_t)(o * all * g.in + k)];
    taps(g, [&](int64_t at_x, int64_t at_y, int64_t tap) FREE_OF_CHECKS {
        for (int64_t i = 0; i < g.in; i++)
            add_scaled(&y[(size_t)(at_y * g.out)], x[(size_t)(at_x * g.in + i)],
                       &turned[(size_t)((tap * g.in + i) * g.out)], g.out);
    });
    return array(y.begin(), y.end());
}

FREE_OF_CHECKS array data_gradient(const geometry &g, const array &dy, const array &filter)
{
    const int64_t all = g.kh * g.kw;
    std::vector<double> dx((size_t)(g.n * g.h * g.w * g.in));

    taps(g, [&](int64_t at_x, int64_t at_y, int64_t tap) FREE_OF_CHECKS {
        for (int64_t o = 0; o < g.out; o++)
            add_scaled(&dx[(size_t)(at_x * g.in)], dy[(size_t)(at_y * g.out + o)],
                       &filter[(size_t)((o * all + tap) * g.in)], g.in);
    });
    return array(dx.begin(), dx.end());
}

FREE_OF_CHECKS array filter_gradient(const geometry &g, const array &x, const array &dy)
{
    const int64_t all = g.kh * g.kw;
    std::vector<double> dw((size_t)(g.out * all * g.in));

    taps(g, [&](int64_t at_x, int64_t at_y, int64_t tap) FREE_OF_CHECKS {
        for (int64_t o = 0; o < g.out; o++)
            add_scaled(&dw[(size_t)((o * all + tap) * g.in)], dy[(size_t)(at_y * g.out + o)],
                       &x[(size_t)(at_x * g.in)], g.in);
    });
    return array(dw.begin(), dw.end());
}

/* ---- the others ---- */

float point(cudnnPointwiseMode_t mode, float a, float b)
{
    switch (mode) {
    case CUDNN_POINTWISE_ADD:
        return a + b;
    case CUDNN_POINTWISE_MUL:
        return a * b;
    case CUDNN_POINTWISE_RELU_FWD:
        return a < 0 ? 0 : a;
    default: /* RELU_BWD: dy, x */
        return b > 0 ? a : 0;
    }
}

/* Where in the smaller array the value for a place of the larger is. */
int64_t spread(const cudnn_tensor &small, int64_t n, int64_t c, int64_t h, int64_t w)
{
    const int64_t *s = small.size;
    const auto in = [](int64_t at, int64_t size) { return size == 1 ? 0 : at; };

    return ((in(n, s[0]) * s[2] + in(h, s[2])) * s[3] + in(w, s[3])) * s[1] + in(c, s[1]);
}

struct computing {
    const cudnn_program &program;
    const cudnn_binding &binding;
    enum cudnn_fault fault;
    std::map<int64_t, array> values;

    const cudnn_tensor &tensor(int64_t id) const
    {
        return program.tensors.at(id);
    }
    /* An input as the multipliers of the engine take it. */
    array factor(int64_t id) const
    {
        array a = values.at(id);
        if (fault == TF32)
            for (float &v : a)
                v = as_tf32(v);
        return a;
    }

    void convolve(const cudnn_operation &op)
    {
        const array a = factor(op.in[0]), b = factor(op.in[1]);
        const cudnn_tensor &first = tensor(op.in[0]), &second = tensor(op.in[1]);
        const cudnn_tensor &out = tensor(op.out[0]);
        array &result = values[op.out[0]];

        if (op.kind == CONVOLVE) result = forward(geometry_of(first, second, out, op), a, b);
        if (op.kind == CONVOLVE_DATA)
            result = data_gradient(geometry_of(out, second, first, op), a, b);
        if (op.kind == CONVOLVE_FILTER)
            result = filter_gradient(geometry_of(first, out, second, op), a, b);
        if (fault == POISONED)
            for (float &v : result)
                v = NAN;
    }
    void pointwise(const cudnn_operation &op)
    {
        const cudnn_tensor &out = tensor(op.out[0]);
        const cudnn_tensor &other = tensor(op.in.back());
        const array &a = values.at(op.in[0]), &b = values.at(op.in.back());
        array result((size_t)out.count());

        each(out, [&](int64_t i, int64_t n, int64_t c, int64_t h, int64_t w) {
            result[(size_t)i] = point(op.mode, a[(size_t)i], b[(size_t)spread(other, n, c, h, w)]);
        });
        values[op.out[0]] = result;
    }
    /* Added to what is in memory. */
    void sum(int64_t to, int64_t from, bool squares)
    {
        const cudnn_tensor &small = tensor(to), &large = tensor(from);
        const array &a = values.at(from);
        std::vector<double> sums((size_t)small.count());
        array result = load(small, binding.pointers.at(to));

        each(large, [&](int64_t i, int64_t n, int64_t c, int64_t h, int64_t w) {
            const double v = a[(size_t)i];
            sums[(size_t)spread(small, n, c, h, w)] += squares ? v * v : v;
        });
        for (size_t i = 0; i < result.size(); i++)
            result[i] += (float)sums[i];
        values[to] = result;
    }
    void operation(const cudnn_operation &op)
    {
        if (op.kind <= CONVOLVE_FILTER) convolve(op);
        if (op.kind == POINTWISE) pointwise(op);
        if (op.kind == SUM || op.kind == STATISTICS) sum(op.out[0], op.in[0], false);
        if (op.kind == STATISTICS) sum(op.out[1], op.in[0], true);
        for (int64_t id : op.out)
            if (program.rounds && binding.pointers.count(id)) round(id);
    }
    void round(int64_t id)
    {
        uint64_t room;
        for (float &v : values.at(id)) {
            store_element(&room, 0, tensor(id).type, v);
            v = load_element(&room, 0, tensor(id).type);
        }
    }
};

/* A library may write all over its workspace, before and behind. */
void use_workspace(const cudnn_binding &binding)
{
    if (binding.workspace_bytes) memset(binding.workspace, 0xff, binding.workspace_bytes);
}

} // namespace

void cudnn_compute(const cudnn_program &program, const cudnn_binding &binding,
                   enum cudnn_fault fault)
{
    computing c = {program, binding, fault, {}};

    use_workspace(binding);
    for (const cudnn_operation &op : program.operations)
        for (int64_t id : op.in)
            if (binding.pointers.count(id) && !c.values.count(id))
                c.values[id] = load(c.tensor(id), binding.pointers.at(id));
    for (const cudnn_operation &op : program.operations)
        c.operation(op);
    for (const cudnn_operation &op : program.operations)
        for (int64_t id : op.out)
            if (binding.pointers.count(id))
                store(c.tensor(id), binding.pointers.at(id), c.values[id]);
    use_workspace(binding);
}

} // namespace executor
