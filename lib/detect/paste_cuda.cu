/* See paste_cuda.h. A block a mask, a thread a column: each counts its column's changes; then, with the
 * sum of those before, each writes them. Compiled without fused multiply-adds but those written out
 * (Makefile). */
#include "detect/paste_cuda.h"

#include "detect/kernels.cuh"
#include "detect/paste_rule.h"

namespace
{

struct pasted {
    const float *map, *box;
    int side, width, height;
    struct mabn_paste_span x, y;
    bool resize, empty;
};

__device__ struct pasted pasted_of(const struct mabn_cuda_paste &p, int64_t i, bool resize)
{
    const float *b = p.box + 4 * i;
    struct pasted m = {};
    m.map = p.map + i * p.side * p.side;
    m.box = b;
    m.side = p.side;
    m.width = p.width;
    m.height = p.height;
    m.resize = resize;
    m.empty = !isfinite(b[0]) || !isfinite(b[1]) || !isfinite(b[2]) || !isfinite(b[3]) ||
              (!resize && !(b[2] > b[0] && b[3] > b[1]));
    if (m.empty) return m;
    if (resize) {
        m.x = mabn_paste_span_resize(b[0], b[2], p.side, p.width);
        m.y = mabn_paste_span_resize(b[1], b[3], p.side, p.height);
    } else {
        m.x = mabn_paste_span_sample(b[0], b[2], p.width);
        m.y = mabn_paste_span_sample(b[1], b[3], p.height);
    }
    m.empty = m.x.from >= m.x.to || m.y.from >= m.y.to;
    return m;
}

/* The map at a place, which counts from its border on. */
__device__ float map_at(const struct pasted &m, int x, int y)
{
    const bool inside = x >= 1 && x <= m.side && y >= 1 && y <= m.side;
    return inside ? m.map[(y - 1) * m.side + x - 1] : 0;
}

__device__ struct mabn_paste_tap tap_of(const struct pasted &m, int i, bool vertical)
{
    const int k = vertical;
    if (m.resize) return mabn_paste_tap_resize(i, vertical ? &m.y : &m.x, m.side + 2);
    return mabn_paste_tap_sample(i, m.box[k], m.box[k + 2], m.side);
}

__device__ bool pixel(const struct pasted &m, const struct mabn_paste_tap &x, int row)
{
    if (row < m.y.from || row >= m.y.to) return false;
    const struct mabn_paste_tap y = tap_of(m, row, true);
    const float low_low = map_at(m, x.low, y.low), high_low = map_at(m, x.high, y.low);
    const float low_high = map_at(m, x.low, y.high), high_high = map_at(m, x.high, y.high);
    if (!m.resize) return mabn_paste_pixel_sample(low_low, high_low, low_high, high_high, &x, &y);
    return mabn_paste_pixel_resize(mabn_paste_between(low_low, high_low, x.w_low, x.w_high),
                                   mabn_paste_between(low_high, high_high, x.w_low, x.w_high), &y);
}

/* Call put(place) at each pixel of a column that differs from the one before it, which for the first is
 * the last of the column before. */
template <typename Put> __device__ void walk_column(const struct pasted &m, int column, Put put)
{
    const bool there = column < m.x.to;
    const uint32_t first = (uint32_t)column * (uint32_t)m.height;
    bool before = false;
    if (column > m.x.from && m.y.to == m.height)
        before = pixel(m, tap_of(m, column - 1, false), m.height - 1);
    const struct mabn_paste_tap x = tap_of(m, there ? column : m.x.from, false);
    const int end = m.y.to < m.height ? m.y.to + 1 : m.height;
    for (int row = before ? 0 : m.y.from; row < end; row++) {
        const bool now = there && pixel(m, x, row);
        if (now != before) put(first + (uint32_t)row);
        before = now;
        if (!there) return;
        if (row < m.y.from) row = m.y.from - 1; /* nothing between */
    }
}

/* The last column to walk: the one behind the mask's, because a run may end there. */
__device__ int last_column(const struct pasted &m)
{
    return m.x.to < m.width ? m.x.to : m.width - 1;
}

/* Sum of the numbers of the threads before this one; *all: of the whole block. part: THREADS. */
template <typename Part> __device__ int64_t sum_before(int64_t mine, Part &part, int64_t *all)
{
    const int self = (int)threadIdx.x;
    int64_t before = 0, total = 0;
    __syncthreads();
    part[self] = mine;
    __syncthreads();
    for (int i = 0; i < THREADS; i++) {
        if (i < self) before += part[i];
        total += part[i];
    }
    *all = total;
    return before;
}

template <bool WRITE>
__global__ void __launch_bounds__(THREADS)
    paste_kernel(int32_t *count, uint32_t *place, const int64_t *first, struct mabn_cuda_paste p,
                 bool resize)
{
    MABN_SHARED(int64_t, part, THREADS);
    const struct pasted m = pasted_of(p, blockIdx.x, resize);
    const int from = m.empty ? 0 : m.x.from, to = m.empty ? 0 : last_column(m) + 1;
    int64_t done = 0, more;
    for (int c = from; c < to; c += THREADS) {
        const int column = c + (int)threadIdx.x;
        int64_t mine = 0;
        if (column < to) walk_column(m, column, [&](uint32_t) { mine++; });
        int64_t at = done + sum_before(mine, part, &more);
        done += more;
        if (WRITE && column < to)
            walk_column(m, column,
                        [&](uint32_t where) { place[first[blockIdx.x] + at++] = where; });
    }
    if (!WRITE && threadIdx.x == 0) count[blockIdx.x] = (int32_t)done;
}

__global__ void select_kernel(float *logit, const float *all, const int32_t *label, int32_t first,
                              int64_t n, int64_t pixels, int64_t channels)
{
    const int64_t i = item(), row = i / pixels;
    if (row >= n) return;
    const int32_t c = channels == 1 ? 0 : label[row] - first;
    logit[i] = c >= 0 && c < channels ? all[i * channels + c] : 0;
}

mabn_status check(const struct mabn_cuda_paste *p)
{
    if (p->side >= 1 && p->side <= MABN_PASTE_MAX_SIDE && p->width >= 0 && p->height >= 0)
        return MABN_OK;
    return mabn_fail(MABN_ERR_ARG, "map of side %d, image of %d x %d", p->side, p->width,
                     p->height);
}

} // namespace

mabn_status mabn_cuda_paste_count(int32_t *count, const struct mabn_cuda_paste *p,
                                  const struct mabn_box_convention *c, void *stream)
{
    MABN_TRY(check(p));
    if (p->n < 1) return MABN_OK;
    return MABN_LAUNCH(paste_kernel<false>, (unsigned)p->n, THREADS, 0,
                       static_cast<cudaStream_t>(stream), count, nullptr, nullptr, *p,
                       c->paste == MABN_PASTE_RESIZE);
}

mabn_status mabn_cuda_paste_places(uint32_t *place, const int64_t *first,
                                   const struct mabn_cuda_paste *p,
                                   const struct mabn_box_convention *c, void *stream)
{
    MABN_TRY(check(p));
    if (p->n < 1) return MABN_OK;
    return MABN_LAUNCH(paste_kernel<true>, (unsigned)p->n, THREADS, 0,
                       static_cast<cudaStream_t>(stream), nullptr, place, first, *p,
                       c->paste == MABN_PASTE_RESIZE);
}

mabn_status mabn_cuda_paste_select(float *logit, const float *all, const int32_t *label,
                                   int32_t first, int64_t n, int64_t pixels, int64_t channels,
                                   void *stream)
{
    if (n * pixels < 1) return MABN_OK;
    return MABN_LAUNCH(select_kernel, blocks(n * pixels), THREADS, 0,
                       static_cast<cudaStream_t>(stream), logit, all, label, first, n, pixels,
                       channels);
}
