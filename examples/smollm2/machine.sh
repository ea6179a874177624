# For the scripts that train SmolLM2: how they use this machine. Sets `precision`, options of ogpsa_align.

# Without bfloat16 products in the processor (AVX512-BF16, AMX), --bf16 took seven times as long as float32.
precision=
if grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo; then precision=--bf16; fi
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1} # large tensors in large pages: see examples/run.sh
