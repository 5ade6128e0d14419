#include "ring.h"

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);     \
      return EXIT_FAILURE;                                                \
    }                                                                     \
  } while (0)

int main(void) {
  struct ring ring;
  int value = 0;
  ring_init(&ring);
  CHECK(!ring_pop(&ring, &value));
  CHECK(ring_push(&ring, 1));
  CHECK(ring_push(&ring, 2));
  CHECK(ring_pop(&ring, &value) && value == 1);
  CHECK(ring_pop(&ring, &value) && value == 2);
  CHECK(!ring_pop(&ring, &value));
  return EXIT_SUCCESS;
}
