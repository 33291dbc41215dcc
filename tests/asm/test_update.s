; Weight updates through the 16-bit accumulator: steps in 256ths, velocity, carry, writes only where a weight changes.
.desc
.view g buf i32 1x1x6
.view step buf i32 1x1x6 addr=32
.view v buf i32 1x1x6 addr=64
.view low buf i8 1x1x6 addr=96
.view delta buf i8 1x1x6 addr=104
.view change buf i8 3x1x4 addr=112
.view columns buf i8 3x1x2 addr=128
.view rows buf i8 3x1x4 addr=136
.view biases buf i32 1x1x4 addr=160
.view steps buf i32 1x1x4 addr=176
.view sums acc i32 1x2x4
.mat w dense transposable 3x4 tensor="w" trainable
.tile sub=0 row=3 col=2 size=2x4
.tile sub=1 k=2 size=1x4
.data
.tensor "w" i8 3x4 [105, -127, -1, 82, -95, 76, -98, -9, 81, -51, -41, -57]

.code
.entry steps
    psr step, g, r1, all
    halt
.entry in_place
    psr g, g, r1, all
    halt
.entry momentum
    mom v, step, 3, all
    halt
.entry carries
    carry delta, low, step, all
    halt
.entry update
    wupc w, change, 0, all
    rdr rows, w, all
    halt
.entry update_columns
    wupc w, columns, 2, r1:1
    rdr rows, w, all
    halt
.entry learn
    bupd biases, steps, all
    halt
.entry add
    badd sums, biases, 3, all
    halt

.tests
.test "rounding to 16-bit steps, at most 127 x 256"
.init g [1000000, -1000000, 300000, 12, 0, 8]
.init_reg r1 3
.run steps
.expect step [32512, -32512, 32512, 2, 0, 1]
.expect_event round_ops 6

.test "rounding to 16-bit steps in place, without a shift"
.init g [1000000, -1000000, 300, 12, 0, -8]
.init_reg r1 -2
.run in_place
.expect g [32512, -32512, 300, 12, 0, -8]

.test "velocity: loses an eighth, takes the step, saturates"
.init v [0, 80, -80, 32512, -32512, 12]
.init step [100, 0, 0, 32512, -32512, 4]
.run momentum
.expect v [100, 70, -70, 32512, -32512, 14]
.expect_event add_ops 12

.test "carry of the low byte"
.init low [0, 127, -128, 100, -100, 0]
.init step [128, -1, 1, -32512, 32512, 129]
.run carries
.expect delta [0, -1, 1, -127, 127, 1]
.expect low [-128, -128, 127, 100, -100, 127]

.test "only the word line that changes is written"
.init change [0, 0, 0, 0, 1, 0, -120, 0, 0, 0, 0, 0]
.run update
.expect rows [105, -127, -1, 82, -96, 76, 22, -9, 81, -51, -41, -57]
.expect_event rows_written_transposable 1
.expect_event bits_written_transposable 32
.expect_event bits_flipped_transposable 3
.expect_event update_ops 12

.test "a saturated weight does not change: nothing is written"
.init change [0, 5, 0, 0, 0*8]
.run update
.expect rows [105, -127, -1, 82, -95, 76, -98, -9, 81, -51, -41, -57]
.expect_event rows_written_transposable 0
.expect_event bits_written_transposable 0

.test "some columns of one row"
.init columns [1, 1, 1, 1, -127, 127]
.init_reg r1 2
.run update_columns
.expect rows [105, -127, -1, 82, -95, 76, -98, -9, 81, -51, 86, -127]
.expect_event rows_written_transposable 1
.expect_event bits_written_transposable 16

.test "biases of 32 bits take a step and saturate at 2^30"
.init biases [1000, -7, 1073741824, -1073741824]
.init steps [-24, 5, -32512, 1]
.run learn
.expect biases [1024, -12, 1073741824, -1073741824]
.expect_event add_ops 4

.test "learned biases are rounded to steps of the sums, ties to even"
.init sums [1, 2, 3, 4, 5, 6, 7, 8]
.init biases [8, 12, 20, -13]
.run add
.expect sums [2, 4, 5, 2, 6, 8, 9, 6]

.test "a sum beyond 32 bits"
.init sums [2147483647, 0*7]
.init biases [8, 0, 0, 0]
.run add
.expect_trap "accumulator overflow"
