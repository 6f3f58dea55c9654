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

static __device__ __forceinline__ float lower(unsigned pair) {
    float value;
    asm("{ .reg .f16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }" : "=f"(value) : "r"(pair));
    return value;
}

static __device__ __forceinline__ float upper(unsigned pair) {
    float value;
    asm("{ .reg .f16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high; }" : "=f"(value) : "r"(pair));
    return value;
}

static __device__ __forceinline__ uint4 read_once(const uint4* from) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "l"(from));
    return value;
}

// The two codes of byte number `which`; `table` is where the lane's copy begins.
static __device__ __forceinline__ unsigned codes_of(unsigned bytes, int which, unsigned table) {
    unsigned pair;
    asm("ld.shared.u32 %0, [%1];" : "=r"(pair) : "r"(table + __byte_perm(bytes, 0, 0x4440 + which) * 4 * LANES));
    return pair;
}

// Four bytes of a weight by eight numbers of x.
static __device__ __forceinline__ void add(float& sum, unsigned bytes, const float* x, unsigned table) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const unsigned pair = codes_of(bytes, i, table);
        sum = fmaf(lower(pair), x[2 * i], sum);
        sum = fmaf(upper(pair), x[2 * i + 1], sum);
    }
}

static __device__ __forceinline__ float over_lanes(float sum) {
#pragma unroll
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return sum;
}

// One row by up to three weights: out[n] = sum over k of x[k] * code(n, k) * scale(n, k / 64), summed in fp32.
//
// x        (K) fp16; K is a multiple of 64
// packed   (N, K / 2) bytes of each weight, the first of two values in the upper half; N0 and N1 are even where another
//          weight follows
// scales   (N, K / 64) fp32 of each weight
// codes    (16) fp32
// out      (N0 + N1 + N2) fp16
//
// Shared memory: 32 KiB and 2 K bytes. A warp multiplies two rows at a time, a lane 32 numbers that lie together.
extern "C" __global__ void __launch_bounds__(1024, 1)
nf4_row(const uint4* x, const uint4* packed0, const float* scales0, const uint4* packed1, const float* scales1,
        const uint4* packed2, const float* scales2, const float* codes, unsigned short* out, int K, int N0, int N1,
        int N2) {
    extern __shared__ uint4 shared[];
    unsigned* table = reinterpret_cast<unsigned*>(shared);
    uint4* row_of_x = shared + 256 * LANES / 4;
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, chunks = K / 32;

    for (int byte = warp; byte < 256; byte += WARPS)
        table[byte * LANES + lane] = rounded_pair(codes[byte >> 4], codes[byte & 15]);
    for (int i = threadIdx.x; i < 4 * chunks; i += blockDim.x) row_of_x[(i % 4) * chunks + i / 4] = x[i];
    __syncthreads();

    const unsigned of_lane = static_cast<unsigned>(__cvta_generic_to_shared(table + lane));
    const int rows = N0 + N1 + N2, stride = 2 * WARPS * gridDim.x;
    for (int n = 2 * (warp * gridDim.x + blockIdx.x); n < rows; n += stride) {
        const int weight = n < N0 ? 0 : n < N0 + N1 ? 1 : 2;
        const long long row = n - (weight == 0 ? 0 : weight == 1 ? N0 : N0 + N1);
        const int next = n + 1 < rows ? chunks : 0;  // the last of an odd number has no second
        const uint4* first = (weight == 0 ? packed0 : weight == 1 ? packed1 : packed2) + row * chunks;
        const float* scale = (weight == 0 ? scales0 : weight == 1 ? scales1 : scales2) + row * (chunks / 2);
        float sums[2] = {0.0f, 0.0f};
#pragma unroll 2
        for (int c = lane; c < chunks; c += LANES) {
            const uint4 a = read_once(first + c), b = read_once(first + next + c);
            const float scale_a = scale[c / 2], scale_b = scale[next / 2 + c / 2];
            const unsigned words[2][4] = {{a.x, a.y, a.z, a.w}, {b.x, b.y, b.z, b.w}};
            float parts[2] = {0.0f, 0.0f};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const uint4 eight = row_of_x[j * chunks + c];
                const float exact[8] = {lower(eight.x), upper(eight.x), lower(eight.y), upper(eight.y),
                                        lower(eight.z), upper(eight.z), lower(eight.w), upper(eight.w)};
                add(parts[0], words[0][j], exact, of_lane);
                add(parts[1], words[1][j], exact, of_lane);
            }
            sums[0] = fmaf(parts[0], scale_a, sums[0]);
            sums[1] = fmaf(parts[1], scale_b, sums[1]);
        }
        const float total_a = over_lanes(sums[0]), total_b = over_lanes(sums[1]);
        if (lane < 2 && n + lane < rows) out[n + lane] = rounded(lane ? total_b : total_a);
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
