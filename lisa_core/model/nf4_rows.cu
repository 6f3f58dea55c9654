// Up to 32 rows by an NF4 weight: out[t][n] = sum over k of x[t][k] * weight(n, k), the weight rounded to fp16 as it is
// when written out, the sums in fp32 by tensor cores.
//
// x        [K / 128, rounded up][4][4][32] uint4: of chunk, eight rows, quarter of a lane's 32 numbers, lane
//          (row 8 j + lane / 4, numbers 128 chunk + 32 (lane % 4) + 8 quarter ...); zeros where there is none
// packed   (N, K / 2) bytes
// scales   (N, K / 64) fp32
// codes    (16) fp32
// out      (T, N) fp16
//
// Launch with 512 threads, a block for every 32 of N. Shared memory: 65 KiB. The table stands at address 1024, as
// nf4_row's does, with what nf4.cu says of that; the warps' sums take its place.

#define LANES 32
#define WARPS 16

static __device__ __forceinline__ unsigned short rounded(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

static __device__ __forceinline__ unsigned rounded_pair(float first, float second) {
    unsigned bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
    return bits;
}

static __device__ __forceinline__ uint4 read_once(const uint4* from) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "l"(from));
    return value;
}

static __device__ __forceinline__ float2 found(unsigned at) {
    float2 pair;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2 + 1024];" : "=f"(pair.x), "=f"(pair.y) : "r"(at));
    return pair;
}

static __device__ __forceinline__ void keep(unsigned at, float first, float second) {
    asm volatile("st.shared.v2.f32 [%0 + 1024], {%1, %2};" ::"r"(at), "f"(first), "f"(second) : "memory");
}

static __device__ __forceinline__ void mma(float* sums, unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                           unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ unsigned word_of(const uint4& four, int which) {
    return which == 0 ? four.x : which == 1 ? four.y : which == 2 ? four.z : four.w;
}

// Two weights, of byte `which` of a word.
static __device__ __forceinline__ unsigned weights(unsigned word, int which, float scale, unsigned of_lane) {
    const float2 pair = found(__byte_perm(word, of_lane, 0x6604 + 16 * which));
    return rounded_pair(pair.x * scale, pair.y * scale);
}

extern "C" __global__ void __launch_bounds__(512, 1)
nf4_rows(const uint4* x, const uint4* packed, const float* scales, const float* codes, unsigned short* out, int T,
         int K, int N) {
    extern __shared__ uint4 shared[];
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int chunks = (K + 127) / 128, tiles = (T + 7) / 8;
    const unsigned of_lane = 8 * lane;
    const float code = codes[lane % 16];

    uint4 next[4];
    float scale[4];
    const auto fetch = [&](int chunk) {
        const int place = min(128 * chunk + 32 * (lane % 4), K - 32);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const long long row = min(32 * static_cast<int>(blockIdx.x) + 8 * r + lane / 4, N - 1);
            next[r] = read_once(packed + (row * K + place) / 32);
            scale[r] = __ldg(scales + (row * K + place) / 64);
        }
    };
    if (warp < chunks) fetch(warp);
#pragma unroll
    for (int i = 0; i < 256; i += WARPS) {
        const int byte = i + warp;
        keep(256 * byte + of_lane, __shfl_sync(0xffffffffu, code, byte >> 4),
             __shfl_sync(0xffffffffu, code, byte & 15));
    }
    __syncthreads();

    float sums[2][4][4] = {};
    for (int chunk = warp; chunk < chunks; chunk += WARPS) {
        uint4 bytes[4];
        float by[4];
#pragma unroll
        for (int r = 0; r < 4; r++) bytes[r] = next[r], by[r] = scale[r];
        if (chunk + WARPS < chunks) fetch(chunk + WARPS);
#pragma unroll
        for (int quarter = 0; quarter < 4; quarter++) {
            uint4 eight[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                eight[j] = j < tiles ? x[((chunk * 4 + j) * 4 + quarter) * LANES + lane] : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                unsigned a[2][4];
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    const unsigned word = word_of(bytes[r], quarter);
                    a[r / 2][r % 2] = weights(word, 2 * half, by[r], of_lane);
                    a[r / 2][2 + r % 2] = weights(word, 2 * half + 1, by[r], of_lane);
                }
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if (j >= tiles) continue;
#pragma unroll
                    for (int m = 0; m < 2; m++)
                        mma(sums[m][j], a[m][0], a[m][1], a[m][2], a[m][3], word_of(eight[j], 2 * half),
                            word_of(eight[j], 2 * half + 1));
                }
            }
        }
    }
    __syncthreads();

    float* const parts = reinterpret_cast<float*>(shared);  // where the table was
#pragma unroll
    for (int i = 0; i < 32; i++) parts[(warp * 32 + i) * LANES + lane] = sums[i / 16][i / 4 % 4][i % 4];
    __syncthreads();
    for (int i = threadIdx.x; i < 1024; i += 512) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += parts[w * 1024 + i];
        const int of = i / LANES, row = 32 * blockIdx.x + 16 * (of / 16) + 8 * (of % 4 / 2) + lane / 4;
        const int t = 8 * (of / 4 % 4) + 2 * (lane % 4) + of % 2;
        if (t < T && row < N) out[static_cast<long long>(t) * N + row] = rounded(sum);
    }
}
