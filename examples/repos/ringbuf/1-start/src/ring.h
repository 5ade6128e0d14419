#ifndef RING_H
#define RING_H

#include <stdbool.h>
#include <stddef.h>

#define RING_CAPACITY 4

struct ring {
  int values[RING_CAPACITY];
  size_t head;
  size_t count;
};

void ring_init(struct ring *ring);

/* Adds a value; false if the buffer is full, which leaves it as it was. */
bool ring_push(struct ring *ring, int value);

/* Takes the oldest value; false if the buffer is empty. */
bool ring_pop(struct ring *ring, int *value);

/* Copies all values, oldest first; returns how many. `out` holds RING_CAPACITY values. */
size_t ring_copy(const struct ring *ring, int *out);

#endif
