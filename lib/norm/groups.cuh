/* Groups of channels of one sample (GN, LN, IN) in a block: teams of neighbouring lanes share a
 * group. Private to lib/norm. */
#ifndef MABN_NORM_GROUPS_CUH
#define MABN_NORM_GROUPS_CUH

#include "device/launch.cuh"

/* Sum over `team` neighbouring lanes (a power of 2), to all of them. */
__device__ __forceinline__ double mabn_team_sum(double v, int team)
{
    for (int d = team / 2; d; d /= 2)
        v += __shfl_xor_sync(~0u, v, d, team);
    return v;
}

/* Lanes that share a group of `size` channels: a power of 2 up to a warp. */
__device__ __forceinline__ int mabn_team_of(int size)
{
    int team = 1;
    while (team < 32 && team < size)
        team *= 2;
    return team;
}

/* For each of `groups` groups of `size` channels: moments(c, &mean, &var) of each channel, all over
 * as many rows, then put(c, mean, var) of the group. By all THREADS of the block. */
template <int THREADS, typename Moments, typename Put>
__device__ void mabn_join_groups(int groups, int size, Moments moments, Put put)
{
    const int team = mabn_team_of(size);
    const int lane = (int)threadIdx.x % team, teams = THREADS / team;

    /* All teams iterate together: shuffles need whole warps. */
    for (int g0 = 0; g0 < groups; g0 += teams) {
        const int g = g0 + (int)threadIdx.x / team;
        const int c0 = g * size, c1 = g < groups ? c0 + size : 0;
        double mean = 0, within = 0, between = 0, m, v;
        for (int c = c0 + lane; c < c1; c += team) {
            moments(c, &m, &v);
            mean += m;
            within += v;
        }
        mean = mabn_team_sum(mean, team) / size;
        for (int c = c0 + lane; c < c1; c += team) {
            moments(c, &m, &v);
            between += (m - mean) * (m - mean);
        }
        const double var = mabn_team_sum(within + between, team) / size;
        for (int c = c0 + lane; c < c1; c += team)
            put(c, mean, var);
    }
}

/* For each of `groups` groups of `size` channels: terms(c, &sum, &dot) of each channel, then put(c,
 * sum, dot) with the group's totals. By all THREADS of the block. */
template <int THREADS, typename Terms, typename Put>
__device__ void mabn_sum_groups(int groups, int size, Terms terms, Put put)
{
    const int team = mabn_team_of(size);
    const int lane = (int)threadIdx.x % team, teams = THREADS / team;

    for (int g0 = 0; g0 < groups; g0 += teams) {
        const int g = g0 + (int)threadIdx.x / team;
        const int c0 = g * size, c1 = g < groups ? c0 + size : 0;
        double sum = 0, dot = 0, s, d;
        for (int c = c0 + lane; c < c1; c += team) {
            terms(c, &s, &d);
            sum += s;
            dot += d;
        }
        sum = mabn_team_sum(sum, team);
        dot = mabn_team_sum(dot, team);
        for (int c = c0 + lane; c < c1; c += team)
            put(c, sum, dot);
    }
}

#endif
