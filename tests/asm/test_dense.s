; Array, dense: forward and transposed products, row reads and writes, weight updates.
.desc
.view x buf i8 2x2x3
.view acc acc i32 2x2x4
.view b1 buf i8 1x1x1 addr=32            ; one input for figure 4
.view u1 buf u8 1x1x1 addr=32
.view a1 acc i32 1x1x1 addr=64
.view p buf u8 3x3x2 addr=64 pad=131
.view q acc i32 2x2x2 addr=100
.view e buf i8 2x2x4 addr=128
.view back acc i32 2x2x3 addr=200
.view e2 buf i8 2x2x2 addr=160
.view back2 acc i32 3x3x2 addr=300
.view rows buf i8 3x1x4 addr=256
.view part buf i8 3x1x2 addr=288
.view big acc i32 1x1x1 addr=400
.geom one
.geom k3 kernel=3x3 stride=2x2 pad=1x1
.mat w dense compute 3x4 tensor="w" frozen
.tile sub=0 size=3x4
.mat split dense compute 3x4 tensor="w" frozen      ; the same weights in four tiles, two copies
.tile sub=1 row=5 col=7 size=2x3
.tile sub=2 row=1 k=2 size=1x3
.tile sub=3 n=3 size=2x1
.tile sub=4 k=2 n=3 size=1x1
.tile sub=5 row=5 col=7 size=2x3 copy=1
.tile sub=6 row=1 k=2 size=1x3 copy=1
.tile sub=7 n=3 size=2x1 copy=1
.tile sub=8 k=2 n=3 size=1x1 copy=1
.mat s dense compute 1x1 tensor="s" trainable
.tile sub=9 size=1x1
.mat w3 dense compute 18x2 tensor="w3" frozen
.tile sub=10 size=18x2
.mat wt dense transposable 3x4 tensor="w" trainable
.tile sub=11 row=3 col=2 size=3x4
.mat w3t dense transposable 18x2 tensor="w3" trainable
.tile sub=12 size=10x2
.tile sub=13 k=10 size=8x2
.data
.tensor "w" i8 3x4 [105, -127, -1, 82, -95, 76, -98, -9, 81, -51, -41, -57]
.tensor "w3" i8 18x2 [88, -87, 91, 28, -99, -117, -15, -119, -92, 3, 120, -9, 78, 106, 82, 33, -16, 3, -60, -1, -31, -65, 126, -125, -104, -79, 120, 49, 97, -77, 56, -34, -3, -128, 30, 84]
.tensor "s" i8 1x1 [-3]

.code
.entry forward
    vmm acc, x, w, one, all
    halt
.entry tiles
    vmm acc, x, split, one, all
    halt
.entry lower_row
    vmm acc, x, w, one, r1+1:1
    halt
.entry single
    vmm a1, b1, s, one, all
    halt
.entry single_unsigned
    vmm a1, u1, s, one, all
    halt
.entry window
    vmm q, p, w3, k3, all
    halt
.entry transposed
    vmmt back, e, wt, one, all
    halt
.entry scatter
    vmmt back2, e2, w3t, k3, all
    halt
.entry read
    rdr rows, split, all
    halt
.entry write
    wrr wt, rows, all
    rdr rows, wt, all
    halt
.entry update
    wupd wt, rows, 0, all
    vmm acc, x, wt, one, all
    halt
.entry update_columns
    wupd wt, part, 1, r1:2
    halt
.entry two_steps
    vmm a1, b1, s, one, all
    vmm a1, b1, s, one, all
    halt

.tests
.test "forward product, signed inputs"
.init x [113, 32, 47, 101, 20, 70, 85, -71, -114, -52, -56, 95]
.run forward
.expect acc [12632, -14316, -5176, 6299, 14375, -14877, -4931, 4112, 6436, -10377, 11547, 14107, 7555, -2497, 1645, -9175]
.expect_event row_activations 12       ; 4 pixels x 3 word lines
.expect_event shift_adds 384           ; x 4 weight columns x 8 input bits
.expect_event sense_ones 1440  ; 45 input bits that are 1 x 4 columns of 8 cells
.expect_event buffer_bits_read 96
.expect_cycles 98                      ; issue + 4 x 3 x 8, halt

.test "tiles and copies give the same sums in fewer cycles"
.init x [113, 32, 47, 101, 20, 70, 85, -71, -114, -52, -56, 95]
.run tiles
.expect acc [12632, -14316, -5176, 6299, 14375, -14877, -4931, 4112, 6436, -10377, 11547, 14107, 7555, -2497, 1645, -9175]
.expect_event adder_tree_ops 16        ; 4 pixels x 4 columns cut once
.expect_cycles 34                      ; issue + 2 waves x 2 word lines x 8, halt

.test "one row of the output, and accumulation"
.init x [113, 32, 47, 101, 20, 70, 85, -71, -114, -52, -56, 95]
.init acc [1*8, -1*8]
.init_reg r1 0
.run lower_row
.expect acc [1, 1, 1, 1, 1, 1, 1, 1, 6435, -10378, 11546, 14106, 7554, -2498, 1644, -9176]

.test "figure 4: negative input, negative weight"
; -3 = 1111 1101, -5 = 1111 1011: the sign bit's product is subtracted, partial results are sign-extended
.init b1 [-5]
.init a1 [0]
.run single
.expect a1 [15]
.expect_event sense_ones 56            ; seven 1 bits in -5, eight cells each

.test "figure 4: positive input, negative weight"
.init b1 [5]
.run single
.expect a1 [-15]
.expect_event sense_ones 16

.test "figure 4: negative input, positive weight"
.init b1 [-5]
.init_mat s [3]
.run single
.expect a1 [-15]

.test "figure 4: the extremes"
.init b1 [-128]
.init_mat s [-128]
.run single
.expect a1 [16384]
.expect_event sense_ones 8

.test "an unsigned input has no sign bit"
.init u1 [251]                         ; the same bits as -5
.run single_unsigned
.expect a1 [-753]
.expect_event sense_ones 56

.test "3 x 3 window, stride 2, zero point 131 outside"
.init p [184, 65, 253, 113, 122, 129, 149, 141, 130, 254, 206, 202, 179, 159, 87, 253, 119, 55]
.run window
.expect q [64369, -66806, 95727, -59855, 88516, -86765, 75247, -84376]

.test "figure 5: transposed product reads columns"
.init e [41, -89, 8, -60, 119, 97, -81, 2, 112, 88, 53, 35, -118, 61, -7, -105]
.run transposed
.expect back [10680, -10903, 10952, 421, 3987, 7899, 3401, -9461, 416, -28740, 17477, -6397]
.expect_event column_activations 128   ; 4 pixels x 4 weight columns x 8 bit columns
.expect_event row_activations 0
.expect_event sense_ones 1440  ; 60 error bits that are 1 x 3 rows x 8 bit columns
.expect_cycles 1026                    ; issue + 4 pixels x 4 columns x 8 x 8, halt

.test "figure 5: the same cells, forward and backward"
.init e [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
.run transposed
.expect back [105, -95, 81, -127, 76, -51, -1, -98, -41, 82, -9, -57]

.test "transposed product scattered to the input positions"
.init e2 [-66, 10, 58, 1, 28, 95, 47, -36]
.run scatter
.expect back2 [1086, 3950, 6026, -4777, -925, -3481, -21059, -15761, -2216, 11643, 5108, 6793, -163, -1775, -7193, -5681, -860, -2784]

.test "rows read as memory"
.run read
.expect rows [105, -127, -1, 82, -95, 76, -98, -9, 81, -51, -41, -57]
.expect_event array_bits_read 96

.test "rows written and read back"
.init rows [-15, -77, 122, -88, 3, 115, 5, 102, 101, 68, 62, 19]
.run write
.expect_mat wt [-15, -77, 122, -88, 3, 115, 5, 102, 101, 68, 62, 19]
.expect rows [-15, -77, 122, -88, 3, 115, 5, 102, 101, 68, 62, 19]
.expect_event rows_written_transposable 3
.expect_event bits_written_transposable 96
.expect_event bits_flipped_transposable 47

.test "writing what is there flips nothing"
.init rows [105, -127, -1, 82, -95, 76, -98, -9, 81, -51, -41, -57]
.run write
.expect_mat wt [105, -127, -1, 82, -95, 76, -98, -9, 81, -51, -41, -57]
.expect_event bits_flipped_transposable 0

.test "update: subtract, clamp to -127..127, use at once"
.init rows [20, 84, -19, 114, 96, -33, -23, 54, 108, -104, -111, -65]
.init x [113, 32, 47, 101, 20, 70, 85, -71, -114, -52, -56, 95]
.run update
.expect_mat wt [85, -127, 18, -32, -127, 109, -75, -63, -27, 53, 70, 8]
.expect acc [4272, -8372, 2924, -5256, 4155, -6937, 5218, -3932, 19320, -24576, -1125, 841, 127, 5535, 9914, 5952]
.expect_event update_ops 12
.expect_event bits_flipped_transposable 43

.test "update of some columns and rows"
.init part [-18, -87, 4, 10, 115, 62]
.init_reg r1 1
.run update_columns
.expect_mat wt [105, -127, -1, 82, -95, 72, -108, -9, 81, -127, -103, -57]

.test "sums add up until they are drained"
.init b1 [7]
.init a1 [100]
.run two_steps
.expect a1 [58]

.test "accumulator overflow"
.init b1 [-128]
.init a1 [2147483500]
.run single
.expect_trap "accumulator overflow"

.test "accumulator underflow"
.init b1 [127]
.init a1 [-2147483500]
.run single
.expect_trap "accumulator overflow"
