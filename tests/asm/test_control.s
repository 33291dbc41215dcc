; Control: registers, hardware loops, phases.
.sas 1
.code
.entry arithmetic
    li r1, 5
    li r2, -7
    add r3, r1, r2          ; -2
    sub r4, r1, r2          ; 12
    max r5, r1, r2
    min r6, r1, r2
    addi r7, r2, -3
    li r8, 2147483647
    addi r8, r8, 1          ; wraps around
    add r9, r1, r0
    sync
    halt
.entry loops
    li r1, 3
    loop r1
      addi r2, r2, 1
      loopi 4
        addi r3, r3, 1
        loopi 0             ; skipped
          addi r4, r4, 1
        endl
      endl
      loop r0               ; r0 is 0: skipped
        addi r4, r4, 1
      endl
    endl
    li r5, -2
    loop r5                 ; negative: skipped
      addi r4, r4, 1
    endl
    halt
.entry deep
    loopi 2
    loopi 2
    loopi 2
    loopi 2
    loopi 2
    loopi 2
    loopi 2
    loopi 2
    addi r1, r1, 1
    endl
    endl
    endl
    endl
    endl
    endl
    endl
    endl
    halt
.entry phases
    phase error
    li r1, 1
    phase update
    li r2, 2
    phase forward
    halt
.entry endless
    sync

.tests
.test "register arithmetic"
.run arithmetic
.expect_reg r3 -2
.expect_reg r4 12
.expect_reg r5 5
.expect_reg r6 -7
.expect_reg r7 -10
.expect_reg r8 -2147483648
.expect_reg r9 5
.expect_reg r0 0
.expect_cycles 12
.expect_event instructions 12

.test "nested loops, and loops that never run"
.run loops
.expect_reg r2 3
.expect_reg r3 12
.expect_reg r4 0
.expect_cycles 53                 ; 2 + 3 (4 + 4 x 3) + 3

.test "eight loops deep"
.run deep
.expect_reg r1 256

.test "phases do not change values"
.run phases
.expect_reg r1 1
.expect_reg r2 2
.expect_cycles 6

.test "initial registers, two runs, counters add up"
.init_reg r1 100
.run deep
.run phases
.run arithmetic
.expect_reg r1 5
.expect_reg r3 -2

.test "running off the end"
.run endless
.expect_trap "past the last instruction"
