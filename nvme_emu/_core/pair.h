/* What pair.c and lane.c share. */

#ifndef NVME_EMU_PAIR_H
#define NVME_EMU_PAIR_H

#include "native.h"

/* As tags.py and queue_pair.py have them. */
enum { TAG_MASK = 0xFFF, GENERATION = 0x1000, UNLISTED = 2 * PAGE, LOCKS = 3 };

/* The tag at a place of the free list and the identifier that it uses next; 0 where that makes no sense. */
int pair_tag(PairObject *pair, Py_ssize_t place, long *tag, long *cid);
/* The tag's command has ended: its next identifier has another generation. */
int pair_next_cid(PairObject *pair, long tag, long cid);
/* The base of a tag's window (WINDOW_SHIFT in core/regions.py). */
static inline uint64_t pair_window(const PairObject *pair, long tag)
{
    return pair->window_base + ((uint64_t)tag << 32);
}

void pair_write(PairObject *pair, const struct sqe *sqe);
void pair_read(PairObject *pair, struct cqe *cqe);
/* Go to the next completion. */
void pair_step(PairObject *pair, const struct cqe *cqe);
/* Whether everything that C reads is there and large enough. */
int pair_is_ready(const PairObject *pair);

void pair_close_lane(PairObject *pair);
PyObject *pair_open_lane(PairObject *self, PyObject *args);
PyObject *pair_exchange(PairObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *pair_exchange_many(PairObject *self, PyObject *const *args, Py_ssize_t count);

#endif
