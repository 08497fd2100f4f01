# How a test becomes a target and a ctest entry. Labels: fast (all of them under a minute on two cores), slow (real
# models, goldens, end to end), gpu (needs an accelerator). Targets fast_tests and slow_tests build all of one label;
# threaded_tests those worth a ThreadSanitizer build.
# Without the libraries of the package group "test" the program alone is built.
find_package(GTest QUIET)
find_package(rapidcheck QUIET)
if(NOT GTest_FOUND OR NOT rapidcheck_FOUND)
  set(HEDDLE_TESTS OFF)
  message(STATUS "No tests: GoogleTest or rapidcheck is missing (tools/install_packages.sh test)")
  function(heddle_tests)
  endfunction()
  return()
endif()
set(HEDDLE_TESTS ON)
include(GoogleTest)
enable_testing()
add_custom_target(fast_tests)
add_custom_target(slow_tests)
add_custom_target(threaded_tests)
set(heddle_threaded_suites base state engine server contract)
string(REPLACE ";" "|" pattern "${heddle_threaded_suites}")
file(WRITE ${CMAKE_BINARY_DIR}/threaded_suites "^(${pattern})_test\\.")

# heddle_test(TARGET LABEL SOURCES LIBS...)
function(heddle_test target label sources)
  if(NOT sources)
    return()
  endif()
  add_executable(${target} ${sources})
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${target} PRIVATE ${ARGN} GTest::gtest GTest::gmock GTest::gtest_main rapidcheck)
  target_compile_definitions(
    ${target} PRIVATE HEDDLE_SOURCE_DIR="${CMAKE_SOURCE_DIR}" HEDDLE_BINARY_DIR="${CMAKE_BINARY_DIR}"
                      HEDDLE_GOLDEN_DIR="${CMAKE_SOURCE_DIR}/test/golden/data" HEDDLE_MODELS_DIR="${HEDDLE_MODELS_DIR}")
  add_dependencies(${label}_tests ${target})
  # A slow test uses every core itself, so nothing runs beside it.
  if(label STREQUAL "slow")
    set(properties LABELS slow TIMEOUT 1200 RUN_SERIAL TRUE)
  else()
    set(properties LABELS fast TIMEOUT 120)
  endif()
  gtest_discover_tests(${target} DISCOVERY_TIMEOUT 60 TEST_PREFIX "${target}." WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
                       PROPERTIES ${properties})
endfunction()

# heddle_tests(SUITE SOURCES LIBS...): SUITE_test of the fast files and SUITE_slow_test of the slow ones.
function(heddle_tests suite sources)
  set(fast ${sources})
  set(slow ${sources})
  list(FILTER fast EXCLUDE REGEX "_slow_test\\.cpp$")
  list(FILTER slow INCLUDE REGEX "_slow_test\\.cpp$")
  heddle_test(${suite}_test fast "${fast}" ${ARGN})
  heddle_test(${suite}_slow_test slow "${slow}" ${ARGN})
  if(TARGET ${suite}_test AND suite IN_LIST heddle_threaded_suites)
    add_dependencies(threaded_tests ${suite}_test)
  endif()
endfunction()
