#pragma once
// A little memory that is kept back for the moment there is no other.

namespace heddle {

// Memory that runs out (std::bad_alloc) then still lets what unwinds free its things, and lets
// words be found for it. For the start of a program, and for whoever has caught std::bad_alloc.
void keep_memory_back();

}  // namespace heddle
