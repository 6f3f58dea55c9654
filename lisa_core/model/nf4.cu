// Products with NF4 weights: 4-bit values, each standing for one of 16 codes, times a scale for every 64 of a row.
//
// Both kernels turn a byte into its two codes by one read of a table. There is a copy of it for each lane, so that 32
// lanes read 32 banks of shared memory whatever their bytes are; without that, looking up takes longer than reading
// the weights.

#define LANES 32
#define WARPS 32
#define THREADS 768
#define DEPTH 4

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

// 32 weights and their scale, unless they are not `wanted`.
static __device__ __forceinline__ void read_once(uint4& bytes, float& scale, const uint4* from, const float* scales,
                                                 bool wanted) {
    asm volatile(
        "{ .reg .pred wanted; setp.ne.u32 wanted, %7, 0;"
        "@wanted ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%5];"
        "@wanted ld.global.nc.f32 %4, [%6]; }"
        : "+r"(bytes.x), "+r"(bytes.y), "+r"(bytes.z), "+r"(bytes.w), "+f"(scale)
        : "l"(from), "l"(scales), "r"(static_cast<unsigned>(wanted)));
}

// The table of a row stands at address 1024 of shared memory, so that no sum is needed to look up. It is taken for
// granted that what a kernel asks for begins there, after 1 KiB of the system's, or before that, at 0 where the system
// keeps none. Where it begins later the table is not the kernel's alone, and the check at the start (`_check` in
// nf4.py), which refuses kernels that compute something else, has to find that.
static __device__ __forceinline__ unsigned found(unsigned at) {
    unsigned pair;
    asm volatile("ld.shared.u32 %0, [%1 + 1024];" : "=r"(pair) : "r"(at));
    return pair;
}

static __device__ __forceinline__ void keep(unsigned at, float first, float second) {
    asm volatile("st.shared.u32 [%0 + 1024], %1;" ::"r"(at), "r"(rounded_pair(first, second)) : "memory");
}

static __device__ __forceinline__ unsigned multiplied(unsigned a, unsigned b) {
    unsigned pair;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(pair) : "r"(a), "r"(b));
    return pair;
}

static __device__ __forceinline__ unsigned added(unsigned a, unsigned b, unsigned sum) {
    unsigned pair;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(sum));
    return pair;
}

// A fourth of 32 numbers of x by as many of a weight.
static __device__ __forceinline__ float product(const uint4& bytes, const unsigned* x, unsigned of_lane) {
    const unsigned words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
    float sum = 0.0f, other = 0.0f;
    unsigned pair = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const unsigned at = __byte_perm(words[i / 4], of_lane, 0x6604 + 16 * (i % 4));
        const unsigned codes = found(at);
        pair = i % 4 ? added(codes, x[i], pair) : multiplied(codes, x[i]);
        if (i % 4 == 3) {
            sum += lower(pair);
            other += upper(pair);
        }
    }
    return sum + other;
}

// Sums over the lanes: lane 32 / DEPTH * j has that of sums[j].
static __device__ __forceinline__ float over_lanes(float* sums, int lane) {
    int step = LANES / 2;
#pragma unroll
    for (int half = DEPTH / 2; half; half /= 2, step /= 2) {
        const bool later = lane & step;
#pragma unroll
        for (int i = 0; i < half; i++) {
            const float given = later ? sums[i] : sums[i + half], kept = later ? sums[i + half] : sums[i];
            sums[i] = kept + __shfl_xor_sync(0xffffffffu, given, step);
        }
    }
#pragma unroll
    for (; step; step /= 2) sums[0] += __shfl_xor_sync(0xffffffffu, sums[0], step);
    return sums[0];
}

// One row by up to three weights: out[n] = sum over k of x[k] * code(n, k) * scale(n, k / 64).
//
// x        (K) fp16; K is a multiple of 64, at most 32 THREADS
// packed   (N, K / 2) bytes of each weight, the first of two values in the upper half
// scales   (N, K / 64) fp32 of each weight
// codes    (16) fp32
// out      (N0 + N1 + N2) fp16
//
// A block multiplies rows that lie together. A warp keeps 1024 numbers of x in registers, a lane 32 of them, and takes
// those 512 bytes of one row after another, DEPTH rows ahead; the first are on their way before there is a table or x.
// 4 products are summed in fp16, by a fourth of x lest that overflows, and all else in fp32.
//
// Launch with THREADS threads, and as many blocks as there are multiprocessors or a multiple of that. Shared memory:
// 1 KiB that may lie before the table; its 64 KiB, half of them unused, so that one permutation makes an address (256
// for the byte, 4 for the lane); and 4 bytes for every 1024 of K, rounded up, of each of a block's rows.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
nf4_row(const uint4* x, const uint4* packed0, const float* scales0, const uint4* packed1, const float* scales1,
        const uint4* packed2, const float* scales2, const float* codes, unsigned short* out, int K, int N0, int N1,
        int N2) {
    extern __shared__ uint4 shared[];
    float* const parts = reinterpret_cast<float*>(shared + ((65 << 10) - __cvta_generic_to_shared(shared)) / 16);
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, chunks = K / 32;
    const int slices = (chunks + LANES - 1) / LANES, groups = THREADS / LANES / slices;
    const int slice = warp % slices, group = warp / slices;
    const bool inside = slice * LANES + lane < chunks;
    const int chunk = inside ? slice * LANES + lane : chunks - 1;
    const int rows = N0 + N1 + N2;
    const int begin = static_cast<unsigned>(rows) * blockIdx.x / gridDim.x;
    const int end = static_cast<unsigned>(rows) * (blockIdx.x + 1) / gridDim.x;
    const unsigned of_lane = 4 * lane;

    const float code = codes[lane % 16];
    // the number of the next 32 weights; where those of the second and third weight begin, and the block's end
    unsigned at = (group < groups ? begin + group : end) * chunks + chunk;
    const unsigned step = groups * chunks, second = N0 * chunks, third = second + N1 * chunks, last = end * chunks;
    const uint4* packed = packed0;
    const float* scales = scales0;
    unsigned edge = second;
    uint4 bytes[DEPTH];
    float scale[DEPTH];
    const auto fetch = [&](int j) {
        if (at >= edge) {
            packed = (at < third ? packed1 - second : packed2 - third);
            scales = (at < third ? scales1 - second / 2 : scales2 - third / 2);
            edge = at < third ? third : 0xffffffffu;
        }
        read_once(bytes[j], scale[j], packed + at, scales + at / 2, at < last);
        at += step;
    };
#pragma unroll
    for (int j = 0; j < DEPTH; j++) {
        bytes[j] = make_uint4(0, 0, 0, 0);
        scale[j] = 0.0f;
        fetch(j);
    }

    unsigned mine[16];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint4 eight = inside ? x[4 * chunk + i] : make_uint4(0, 0, 0, 0);
        const unsigned pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
        for (int j = 0; j < 4; j++) mine[4 * i + j] = multiplied(pairs[j], 0x34003400);  // a fourth
    }
#pragma unroll
    for (int i = 0; i < 256; i += THREADS / LANES) {
        const int byte = (i + warp) % 256;
        keep(256 * byte + of_lane, __shfl_sync(0xffffffffu, code, byte >> 4),
             __shfl_sync(0xffffffffu, code, byte & 15));
    }
    __syncthreads();

    for (int row = group < groups ? begin + group : end; row < end; row += DEPTH * groups) {
        float sums[DEPTH];
#pragma unroll
        for (int j = 0; j < DEPTH; j++) {
            sums[j] = product(bytes[j], mine, of_lane) * scale[j];
            fetch(j);
        }
        const float sum = over_lanes(sums, lane);
        const int of_sum = row + lane * DEPTH / LANES * groups;
        if (lane % (LANES / DEPTH) == 0 && of_sum < end) parts[(of_sum - begin) * slices + slice] = sum;
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < end - begin; i += THREADS) {
        float sum = 0.0f;
#pragma unroll 1
        for (int s = 0; s < slices; s++) sum += parts[i * slices + s];
        out[begin + i] = rounded(4.0f * sum);
    }
}

// A weight written out: out[i] = code(i) * scale(i / 64), rounded to fp16 once.
//
// packed   (4 words) bytes, as above
// scales   (words / 8) fp32
// codes    (16) fp32
// out      (8 words) fp16
//
// Launch with 1024 threads and twice as many blocks as there are multiprocessors. Shared memory: 64 KiB.
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
