// torch's threads as a team: see UseTeam in parallel.h.
#pragma once
#include "../parallel.h"

namespace fastnn::python {

// Null where no torch is loaded, or one that does not lend its threads.
const Team* torch_team();

}  // namespace fastnn::python
