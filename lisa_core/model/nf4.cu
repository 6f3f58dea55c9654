// Products with NF4 weights: 4-bit values, each standing for one of 16 codes, times a scale for every 64 of a row.
//
// Both kernels turn a byte into its two codes by one read of a table. There is a copy of it for each lane, so that 32
// lanes read 32 banks of shared memory whatever their bytes are; without that, looking up takes longer than reading
// the weights. Launch with 1024 threads, as many blocks as there are multiprocessors, or twice as many to expand.

#define LANES 32
#define WARPS 32

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

static __device__ __forceinline__ uint2 read_once(const uint2* from) {
    uint2 value;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(from));
    return value;
}

// The two codes of byte number `which`; `table` is where the lane's copy begins.
static __device__ __forceinline__ unsigned codes_of(unsigned bytes, int which, unsigned table) {
    unsigned pair;
    asm("ld.shared.u32 %0, [%1];" : "=r"(pair) : "r"(table + __byte_perm(bytes, 0, 0x4440 + which) * 4 * LANES));
    return pair;
}

// (16, 16) by (16, 8) on tensor cores, added to four sums of each lane.
static __device__ __forceinline__ void multiply(float* sums, unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                                unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ float over_lanes(float sum) {
#pragma unroll
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return sum;
}

// One row by up to three weights: out[n] = sum over k of x[k] * code(n, k) * scale(n, k / 64), summed in fp32.
//
// x        (K) fp16; K is a multiple of 64
// packed   (N, K / 2) bytes of each weight, the first of two values in the upper half; N0 and N1 are multiples of 16
//          where another weight follows
// scales   (N, K / 64) fp32 of each weight
// codes    (16) fp32
// out      (N0 + N1 + N2) fp16
//
// Shared memory: 32 KiB, 2 K + 32 bytes, and 2112 for every 16 rows that a block multiplies.
//
// A block multiplies 16 rows at a time; each of its warps has the same part of K in all of them. Of the tensor cores'
// 8 columns x is the first, the others are zero. Which k meet in a product does not matter as long as both sides
// agree: a lane takes 16 that lie together.
extern "C" __global__ void __launch_bounds__(1024, 1)
nf4_row(const uint4* x, const uint2* packed0, const float* scales0, const uint2* packed1, const float* scales1,
        const uint2* packed2, const float* scales2, const float* codes, unsigned short* out, int K, int N0, int N1,
        int N2) {
    extern __shared__ uint4 shared[];
    unsigned* table = reinterpret_cast<unsigned*>(shared);
    uint4* row_of_x = shared + 256 * LANES / 4;
    uint4* zeros = row_of_x + K / 8;
    float* parts = reinterpret_cast<float*>(zeros + 2);
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, column = lane / 4, quarter = lane % 4;

    for (int byte = warp; byte < 256; byte += WARPS)
        table[byte * LANES + lane] = rounded_pair(codes[byte >> 4], codes[byte & 15]);
    for (int i = threadIdx.x; i < K / 8; i += blockDim.x) row_of_x[i] = x[i];
    if (threadIdx.x < 2) zeros[threadIdx.x] = make_uint4(0, 0, 0, 0);
    __syncthreads();

    const unsigned of_lane = static_cast<unsigned>(__cvta_generic_to_shared(table + lane));
    const int blocks = K / 64, each = (blocks + WARPS - 1) / WARPS;
    const int first = warp * each, last = min(first + each, blocks);
    const int rows = N0 + N1 + N2, tiles = (rows + 15) / 16;
    int done = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, done++) {
        const int weight = 16 * tile < N0 ? 0 : 16 * tile < N0 + N1 ? 1 : 2;
        const uint2* packed = weight == 0 ? packed0 : weight == 1 ? packed1 : packed2;
        const float* scales = weight == 0 ? scales0 : weight == 1 ? scales1 : scales2;
        const int before = weight == 0 ? 0 : weight == 1 ? N0 : N0 + N1;
        const int most = (weight == 0 ? N0 : weight == 1 ? N1 : N2) - 1;
        const long long upper = min(16 * tile - before + column, most);
        const long long lower = min(16 * tile - before + column + 8, most);
        const uint2* of_upper = packed + upper * (K / 16) + 4 * first + quarter;
        const uint2* of_lower = packed + lower * (K / 16) + 4 * first + quarter;
        const float *scale_upper = scales + upper * blocks + first, *scale_lower = scales + lower * blocks + first;
        const uint4* part_of_x = column ? zeros : row_of_x + 8 * first + 2 * quarter;
        float sum_upper = 0.0f, sum_lower = 0.0f;
#pragma unroll 2
        for (int block = first; block < last; block++) {
            const uint2 a = read_once(of_upper), b = read_once(of_lower);
            const float for_upper = *scale_upper++, for_lower = *scale_lower++;
            const uint4 x0 = part_of_x[0], x1 = part_of_x[1];
            of_upper += 4, of_lower += 4, part_of_x += column ? 0 : 8;
            const unsigned xs[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
            float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const unsigned of_a = i < 2 ? a.x : a.y, of_b = i < 2 ? b.x : b.y;
                const int even = 2 * (i % 2), odd = even + 1;
                multiply(sums, codes_of(of_a, even, of_lane), codes_of(of_b, even, of_lane),
                         codes_of(of_a, odd, of_lane), codes_of(of_b, odd, of_lane), xs[2 * i], xs[2 * i + 1]);
            }
            sum_upper = fmaf(sums[0], for_upper, sum_upper);
            sum_lower = fmaf(sums[2], for_lower, sum_lower);
        }
        if (quarter == 0) {
            parts[(16 * done + column) * (WARPS + 1) + warp] = sum_upper;
            parts[(16 * done + column + 8) * (WARPS + 1) + warp] = sum_lower;
        }
    }
    __syncthreads();
    for (int row = warp; row < 16 * done; row += WARPS) {
        const float sum = over_lanes(parts[row * (WARPS + 1) + lane]);
        const int n = 16 * (blockIdx.x + row / 16 * gridDim.x) + row % 16;
        if (lane == 0 && n < rows) out[n] = rounded(sum);
    }
}

// A weight written out: out[i] = code(i) * scale(i / 64), rounded to fp16 once.
//
// packed   (4 words) bytes, as above
// scales   (words / 8) fp32
// codes    (16) fp32
// out      (8 words) fp16
//
// Shared memory: 64 KiB.
extern "C" __global__ void __launch_bounds__(1024, 2)
nf4_expand(const unsigned* packed, const float* scales, const float* codes, uint4* out, int words) {
    extern __shared__ uint4 shared[];
    float2* table = reinterpret_cast<float2*>(shared);
    const int lane = threadIdx.x % LANES;
    for (int byte = threadIdx.x / LANES; byte < 256; byte += WARPS)
        table[byte * LANES + lane] = make_float2(codes[byte >> 4], codes[byte & 15]);
    __syncthreads();
#pragma unroll 4
    for (int word = blockIdx.x * blockDim.x + threadIdx.x; word < words; word += gridDim.x * blockDim.x) {
        const unsigned bytes = packed[word];
        const float scale = scales[word / 8];
        unsigned pairs[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 pair = table[__byte_perm(bytes, 0, 0x4440 + i) * LANES + lane];
            pairs[i] = rounded_pair(pair.x * scale, pair.y * scale);
        }
        out[word] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
}
