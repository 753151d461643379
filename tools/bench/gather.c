/* The physical limit: what memcpy alone moves. Built by limits.py into a temporary directory. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Copy row places[i] of src to row i modulo dst_rows of dst, for i < count. */
void gather(unsigned char *dst, size_t dst_rows, const unsigned char *src, const int64_t *places,
            size_t count, size_t row_bytes)
{
    size_t slot = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(dst + slot * row_bytes, src + (size_t)places[i] * row_bytes, row_bytes);
        if (++slot == dst_rows)
            slot = 0;
    }
}
