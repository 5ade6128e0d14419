#!/bin/bash
exec node --test null.test.mjs
