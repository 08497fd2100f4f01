# Small programs that let scripts compare src/text with other implementations.
add_executable(chat_template_driver ${CMAKE_CURRENT_LIST_DIR}/e2e/chat_template_driver.cpp)
target_link_libraries(chat_template_driver PRIVATE heddle_text)
if(TARGET slow_tests)
  add_dependencies(slow_tests chat_template_driver)
endif()
