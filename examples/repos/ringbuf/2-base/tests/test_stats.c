#include "stats.h"

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
  int max = 0;
  ring_init(&ring);
  CHECK(ring_sum(&ring) == 0);
  CHECK(!ring_max(&ring, &max));
  ring_push(&ring, -3);
  ring_push(&ring, 7);
  CHECK(ring_max(&ring, &max) && max == 7);
  return EXIT_SUCCESS;
}
