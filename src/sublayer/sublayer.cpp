#include "sublayer/sublayer.h"

namespace heddle::sublayer {

Result<std::unique_ptr<Design>> make_design(const Kind& kind, const Params& params,
                                            const StatePrecision& precision) {
  if (precision.records != DType::bf16 && precision.records != DType::f32)
    return fail("{}: records of {}, expected bf16 or f32", kind.name,
                dtype_info(precision.records).name);
  if (precision.summary != DType::f32 || precision.error_feedback)
    return fail("{}: summaries of {}{}, expected f32", kind.name,
                dtype_info(precision.summary).name,
                precision.error_feedback ? " with error feedback" : "");
  const Params asked = params.unasked();
  HEDDLE_TRY(std::unique_ptr<Design> design, kind.design(asked, precision));
  HEDDLE_TRY_STATUS(asked.check_all_asked(kind.name));
  return design;
}

}  // namespace heddle::sublayer
