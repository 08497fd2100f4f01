# The CUDA toolkit, for HEDDLE_CUDA. Machine code for Hopper with its own instructions (sm_90a), machine code for Ampere, and the
# form that drivers compile for whatever comes later. The runtime is linked statically: without a driver it reports that there is
# none, and the program runs on the CPU.
if(HEDDLE_ASAN OR HEDDLE_TSAN OR HEDDLE_FUZZ)
  message(FATAL_ERROR "HEDDLE_CUDA goes with no sanitizer build: tools/gpu_suite.sh runs compute-sanitizer")
endif()
find_program(HEDDLE_NVCC nvcc HINTS /usr/local/cuda/bin REQUIRED)
set(CMAKE_CUDA_COMPILER ${HEDDLE_NVCC})
set(CMAKE_CUDA_ARCHITECTURES "80;90a-real" CACHE STRING "What kernels are compiled for")
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
# The version of CMake asked for does not know nvcc's C++20.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O3 -lineinfo")
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers,-ffp-contract=off;--expt-relaxed-constexpr>")
# libfmt takes constexpr away from a part of its functions under nvcc, which C++20 does not allow.
add_compile_definitions(HEDDLE_CUDA $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
