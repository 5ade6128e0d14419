#ifndef STATS_H
#define STATS_H

#include "ring.h"

/* Sum of all values; 0 for an empty buffer. */
long ring_sum(const struct ring *ring);

/* Largest value; false if the buffer is empty. */
bool ring_max(const struct ring *ring, int *max);

#endif
