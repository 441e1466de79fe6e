// What the library and the kernels agree on. `src/launch.rs` is the other side: it fills these parameters and chooses the geometry.
//
// Every kernel works on dense row-major tensors over the whole batch (docs/operators.md); the batch row is blockIdx.z. Blocks are
// one-dimensional. Indices that are not what the specification promises give an unspecified result, never an access out of bounds.
// No kernel allocates, waits for the host, adds floats atomically or leaves anything to the order of blocks: the same input gives
// the same bits.
//
// Entry points are named vcc_OPERATOR_TYPE. The plain name takes rows as vectors of 16 bytes; the same name with _any takes them
// element by element, for row lengths and addresses that are not multiples of 16 bytes.
#pragma once
#include <cstdint>

#define VCC_MAX_LEVELS 8

// Threads of a block. The first group gives each warp its own rows and one tile of 32 vectors of channels (blockIdx.y).
#define VCC_ROW_THREADS 128
#define VCC_PARTITION_THREADS 512
#define VCC_SEGMENT_THREADS 256
#define VCC_SELECT_THREADS 1024

// Tokens that a block of the partition handles, and neighbouring segments that a warp of it does; list rows that a warp of compress and
// decompress handles; slots or tokens that a warp handles when it copies or expands.
#define VCC_PARTITION_TOKENS 4096
#define VCC_SEGMENT_GROUP 8
#define VCC_LIST_ROWS 8
#define VCC_COPY_ROWS 32

// Candidates of a selection that a thread has in its registers.
#define VCC_SELECT_EACH 8

// The sizes of a batch row: levels L, v, nb, v + m, N and P of the specification; size[0..=L] is the ladder, start[l] the item id of
// the first segment of level l, and start[L] = P.
struct VccLayout {
  int levels, vips, roots, slots, segments, items;
  int size[VCC_MAX_LEVELS + 1];
  int start[VCC_MAX_LEVELS + 1];
};
