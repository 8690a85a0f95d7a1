// Included at the end of ops/<family>_kernel.cpp, inside namespace fastnn::FASTNN_ISA, with FASTNN_FAMILY_INC and
// FASTNN_FAMILY_TABLE defined: turns the rows into this ISA's table. A kernel that this ISA lacks is a nullptr of its
// name.
#if FASTNN_ISA_ID == 0
#define FASTNN_DOUBLE_OR_NULL(name) &name<double>
#else
#define FASTNN_DOUBLE_OR_NULL(name) nullptr
#endif
#define KERNEL(name, isas, ret, args) name,
#define FLOAT_KERNEL(name, ret, args) {{&name<float>, &name<bf16>, &name<f16>, FASTNN_DOUBLE_OR_NULL(name)}},
FASTNN_FAMILY_TABLE = {
#include FASTNN_FAMILY_INC
};
#undef KERNEL
#undef FLOAT_KERNEL
