; Periphery, training: masks, channel scales, ranges, shifts, pseudo-stochastic rounding, cross-entropy.
.desc
.view q buf u8 2x2x3
.view bits buf bit 2x2x3 addr=16
.view e buf i32 2x2x3 addr=32
.view e8 buf i8 2x2x3 addr=96
.view out buf i32 2x2x3 addr=128
.view m buf i8 2x2x3 addr=192
.view half buf i16 2x2x3 addr=320
.view logits buf i8 1x1x5 addr=256
.view err buf i32 1x1x5 addr=264
.view wanted buf i8 1x1x5 addr=288
.table both mask lo=0 hi=255 use_lo=1 use_hi=1
.table low mask lo=0 hi=255 use_lo=1 use_hi=0
.table k scale k=[32768, 16384, -20000]
.table huge scale k=[2147483647, 1, 1]
.table loss loss mult=148 t_other=655 t_label=30148
.table steep loss mult=4096 t_other=655 t_label=30148

.code
.entry both
    mask bits, q, both, all
    emask out, e, bits, all
    halt
.entry low
    mask bits, q, low, all
    halt
.entry narrow
    emask out, e8, bits, r1:1
    halt
.entry scale
    escale out, e, k, all
    halt
.entry scale8
    escale out, e8, k, all
    halt
.entry scale_in_place
    escale e, e, k, all
    halt
.entry scale_huge
    escale out, e, huge, all
    halt
.entry ranges
    range r1, e, 0:1
    range r2, e, all
    halt
.entry beyond
    rangec r2, e, r1, all
    halt
.entry shift
    shr8 m, e, r1, all
    halt
.entry halves
    cut16 half, e, all
    shr8 m, half, r1, all
    halt
.entry carried
    shr8c m, e, r1, all
    halt
.entry round
    psr m, e, r1, all
    halt
.entry unbiased
    usr m, e, r1, r2, r3, 5, 0, all
    halt
.entry loss
    xent err, logits, loss, r1, r2
    halt
.entry steep
    xent err, logits, steep, r1, r2
    halt
.entry squared
    sqerr err, logits, wanted, r2
    halt

.tests
.test "mask of both bounds, applied"
.init q [0, 1, 128, 255, 254, 17, 0, 255, 9, 200, 0, 3]
.init e [95749, -21552, 17998, -12103, 21011, -10859, 27599, 9430, 35290, 91352, -69843, 12327]
.run both
.expect bits [0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1]
.expect out [0, -21552, 17998, 0, 21011, -10859, 0, 0, 35290, 91352, 0, 12327]
.expect_event mask_ops 24

.test "mask of the lower bound only"
.init q [0, 1, 128, 255, 254, 17, 0, 255, 9, 200, 0, 3]
.run low
.expect bits [0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 1]

.test "int8 errors are widened"
.init bits [1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 0]
.init e8 [-15, -36, -66, -114, -25, 83, -103, -24, 119, 115, -73, -126]
.init out [9*12]
.init_reg r1 1
.run narrow
.expect out [9, 9, 9, 9, 9, 9, -103, -24, 119, 0, -73, 0]

.test "channel scales in Q15"
.init e [95749, -21552, 17998, -12103, 21011, -10859, 27599, 9430, 35290, 91352, -69843, 12327]
.run scale
.expect out [95749, -10776, -10985, -12103, 10506, 6628, 27599, 4715, -21539, 91352, -34922, -7524]

.test "channel scales of int8 errors"
.init e8 [-15, -36, -66, -114, -25, 83, -103, -24, 119, 115, -73, -126]
.run scale8
.expect out [-15, -18, 40, -114, -12, -51, -103, -12, -73, 115, -36, 77]

.test "channel scales in place"
.init e [95749, -21552, 17998, -12103, 21011, -10859, 27599, 9430, 35290, 91352, -69843, 12327]
.run scale_in_place
.expect e [95749, -10776, -10985, -12103, 10506, 6628, 27599, 4715, -21539, 91352, -34922, -7524]

.test "a scaled error beyond 32 bits"
.init e [100000, 0*11]
.run scale_huge
.expect_trap "escale overflow"

.test "range: bits of the largest magnitude, the running maximum is kept"
.init e [0, 127, -128, 3, 3, 3, 1, 1, 1, 1, 1, -2147483648]
.init_reg r1 3
.run ranges
.expect_reg r1 8
.expect_reg r2 32

.test "range of zeros keeps the register"
.init e 0
.init_reg r1 5
.run ranges
.expect_reg r1 5
.expect_reg r2 0

.test "range beyond a shift: elements of more than shift + 7 bits are counted, those that only round up to 128 are not"
.init e [0, 127, -128, 1023, -1023, 1024, -1024, 1, 1, 1, 2147483647, -2147483648]
.init_reg r1 3
.init_reg r2 3
.run beyond
.expect_reg r2 32
.expect_event saturated 4

.test "range beyond a shift of zero or less"
.init e [0, 127, -127, 128, -128, 3, 3, 3, 1, 1, 1, 1]
.init_reg r1 -4
.run beyond
.expect_reg r2 8
.expect_event saturated 2

.test "shift to 8 bits, ties to even"
.init e [0, 1, -1, 8, -12, 12, 20, -20, 2047, -2048, 4095, -4096]
.init_reg r1 3
.run shift
.expect m [0, 0, 0, 1, -2, 2, 2, -2, 127, -127, 127, -127]

.test "a shift of zero or less only clamps"
.init e [0, 1, -1, 8, -12, 12, 20, -20, 2047, -2048, 4095, -4096]
.init_reg r1 -4
.run shift
.expect m [0, 1, -1, 8, -12, 12, 20, -20, 127, -127, 127, -127]

.test "numbers of 16 bits: 11 digits stay, the last is odd where something was cut; the shift to 8 bits is that of the sums"
.init e [0, -1, 2047, -2048, 2049, 4098, -4100, 98305, -98304, 98303, 32768, -65537]
.init_reg r1 10
.run halves
.expect half [0, -1, 2047, -2048, 2049, 3073, -3073, 7681, -7680, 7679, 6144, -7169]
.expect m [0, 0, 2, -2, 2, 4, -4, 96, -96, 96, 32, -64]
.expect_event shift_ops 24

.test "shift that keeps the sums of pixels"
.init e [5, 5, 5, 5, 5, -20, 8, -12, 12, 20, -20, 2047]
.init_reg r1 3
.run carried
.expect m [1, 0, 1, 1, 0, -2, 1, -2, 2, 2, -2, 127]
.expect_event shift_ops 12
.expect_event add_ops 24

.test "shift that keeps sums, without a shift"
.init e [0, 1, -1, 8, -12, 12, 20, -20, 107, -27, 40, -40]
.init_reg r1 -2
.run carried
.expect m [0, 1, -1, 8, -12, 12, 20, -20, 107, -27, 40, -40]

.test "pseudo-stochastic rounding, even shift"
.init e [0, 1, -1, 8, -12, 12, 20, -20, 2047, -2048, 4095, -4096]
.init_reg r1 4
.run round
.expect m [0, 0, 0, 1, -1, 1, 2, -2, 127, -127, 127, -127]
.expect_event round_ops 12

.test "pseudo-stochastic rounding, odd shift"
.init e [0, 1, -1, 8, -12, 12, 20, -20, 2047, -2048, 4095, -4096]
.init_reg r1 5
.run round
.expect m [0, 0, 0, 1, -1, 1, 1, -1, 64, -64, 127, -127]

.test "pseudo-stochastic rounding without a shift"
.init e [0, 1, -1, 8, -12, 12, 20, -20, 2047, -2048, 4095, -4096]
.run round
.expect m [0, 1, -1, 8, -12, 12, 20, -20, 127, -127, 127, -127]

.test "cross-entropy of five classes"
.init logits [-20, 35, 0, 12, 35]
.init_reg r1 3
.run loss
.expect err [1903, 9491, 3577, -24462, 9491]
.expect_reg r2 10018

.test "cross-entropy of a confident mistake: the loss saturates"
.init logits [127, -128, 0, 0, 0]
.init_reg r1 1
.run steep
.expect err [32113, -30148, -655, -655, -655]
.expect_reg r2 65536

.test "a label that is no class"
.init logits 0
.init_reg r1 5
.run loss
.expect_trap "label out of range"

.test "squared error: differences, and the sum of their squares"
.init logits [-20, 35, 0, 127, -128]
.init wanted [-20, 30, 7, -128, 127]
.run squared
.expect err [0, 5, -7, 255, -255]
.expect_reg r2 130124
.expect_event loss_ops 5

.test "unbiased rounding of sample 2 in step 3, stream 5"
.init e [95749, -21552, 17998, -12103, 21011, -10859, 27599, 9430, 35290, 91352, -69843, 12327]
.init_reg r1 10
.init_reg r2 3
.init_reg r3 2
.run unbiased
.expect m [93, -21, 18, -12, 21, -11, 27, 9, 35, 89, -68, 12]
.expect_event round_ops 12
