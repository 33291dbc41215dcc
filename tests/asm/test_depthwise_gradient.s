; Array, depth-wise products and gradients.
.desc
.view x buf u8 4x3x2
.view x7 buf u8 4x3x2 pad=7
.view acc acc i32 4x3x2
.view small acc i32 2x2x4 addr=100
.view e buf i8 2x2x2 addr=64
.view back acc i32 4x3x2 addr=200
.view xs buf i8 3x3x2 addr=128
.view es buf i8 3x3x3 addr=192
.view g acc i32 2x1x3 addr=300
.view xz buf u8 3x3x2 addr=256 pad=9
.view ez buf i8 2x2x3 addr=320
.view g9 acc i32 18x1x3 addr=400
.view ed buf i8 2x2x2 addr=352
.view gd acc i32 2x1x9 addr=500
.view r buf i8 2x1x2 addr=380
.geom one
.geom same kernel=3x3 pad=1x1
.geom half kernel=3x3 stride=2x2 pad=1x1
.mat w depthwise compute 2x9 tensor="w" frozen
.tile sub=0 size=2x9
.mat w2 depthwise compute 2x18 tensor="w2" frozen
.tile sub=1 size=1x18
.tile sub=2 k=1 size=1x18
.mat scratch scratch compute 4x8
.tile sub=40 size=4x8
.tile sub=41 size=4x8
.mat blank scratch compute 2x2
.tile sub=50 size=2x2
.data
.tensor "w" i8 2x9 [116, -90, 15, -16, -37, -67, -115, -25, 83, -104, -25, 119, 115, -73, -127, 43, -125, -52]
.tensor "w2" i8 2x18 [-1, 95, -105, 41, 8, -95, 88, 88, -5, 113, 27, 103, 117, 17, -57, -91, 16, -79, 64, 109, -66, 13, -116, -82, -32, 98, 120, 36, 21, 17, -113, -32, 123, -23, -74, -67]

.code
.entry stream
    dwm acc, x, w, same, all
    halt
.entry rows
    li r1, 0
    loopi 4
      dwm acc, x, w, same, r1:1
      addi r1, r1, 1
    endl
    halt
.entry border
    dwm acc, x7, w, same, all
    halt
.entry multiplier
    dwm small, x, w2, half, all
    halt
.entry back
    dwmt back, e, w, half, all
    halt
.entry gradient_e
    gradp g, xs, es, scratch, one, e, all
    halt
.entry gradient_a
    gradp g, xs, es, scratch, one, a, all
    halt
.entry gradient_window
    gradp g9, xz, ez, scratch, half, e, all
    halt
.entry gradient_depthwise
    gradd gd, xz, ed, scratch, half, all
    halt
.entry uninitialised
    wrr blank, r, 0:1
    rdr r, blank, 0:1
    rdr r, blank, all
    halt

.tests
.test "3 x 3, border of zeros"
.init x [164, 153, 27, 15, 169, 99, 153, 82, 57, 38, 97, 208, 102, 97, 147, 250, 100, 151, 112, 154, 114, 163, 140, 173]
.run stream
.expect acc [-6971, -25300, -25915, -8113, -15665, -29868, -14184, -37977, 968, -59197, -35984, -22974, -19876, -64085, -3808, -33747, -24780, -6041, -18757, -4618, -15288, -14529, 1048, -23659]
.expect_event row_activations_depthwise 24      ; 12 positions x 2 channels
.expect_event shift_adds 1728                   ; x 9 weights x 8 bits
.expect_cycles 194                              ; issue + 12 x 2 x 8, halt

.test "row by row gives the same sums"
.init x [164, 153, 27, 15, 169, 99, 153, 82, 57, 38, 97, 208, 102, 97, 147, 250, 100, 151, 112, 154, 114, 163, 140, 173]
.run rows
.expect acc [-6971, -25300, -25915, -8113, -15665, -29868, -14184, -37977, 968, -59197, -35984, -22974, -19876, -64085, -3808, -33747, -24780, -6041, -18757, -4618, -15288, -14529, 1048, -23659]

.test "zero point 7: the border is streamed too"
.init x7 [164, 153, 27, 15, 169, 99, 153, 82, 57, 38, 97, 208, 102, 97, 147, 250, 100, 151, 112, 154, 114, 163, 140, 173]
.run border
.expect acc [-7601, -24264, -25628, -8183, -15266, -31191, -14289, -37599, 968, -59197, -35767, -23394, -19981, -63707, -3808, -33747, -24563, -6461, -18456, -5479, -15687, -15467, 285, -24653]
.expect_event row_activations_depthwise 60      ; 6 x 5 positions x 2 channels

.test "channel multiplier 2, stride 2"
.init x [164, 153, 27, 15, 169, 99, 153, 82, 57, 38, 97, 208, 102, 97, 147, 250, 100, 151, 112, 154, 114, 163, 140, 173]
.run multiplier
.expect small [11926, -806, -6382, -11665, 16011, 2397, 7879, -21129, 4687, -3857, 9330, 7697, 38337, 19825, 22576, -43897]

.test "error of a depth-wise layer"
.init e [54, -119, 120, 96, 17, -9, 66, 12]
.run back
.expect back [-1998, 8687, -5538, 26153, -4440, -7008, -2880, 15100, -1407, 7997, -8940, -12300, -629, 657, -2195, 2523, -2442, -876, -425, 1125, -6179, 984, -1650, -1500]

.test "gradient, errors in the scratch rows"
.init xs [-6, -46, -14, 64, -114, -122, 56, -33, 77, -121, 104, -97, -22, 119, -101, 40, 58, -19]
.init es [-108, 6, -18, 95, 46, -40, -114, 23, -57, 47, 93, -38, 103, 4, 7, 67, 74, 104, 127, -90, -23, 110, -50, -127, 19, 64, 62]
.run gradient_e
.expect g [17043, 20652, 33322, 23595, -24795, -13454]
.expect_event rows_written_compute 9
.expect_event bits_written_compute 216

.test "gradient, activations in the scratch rows"
.init xs [-6, -46, -14, 64, -114, -122, 56, -33, 77, -121, 104, -97, -22, 119, -101, 40, 58, -19]
.init es [-108, 6, -18, 95, 46, -40, -114, 23, -57, 47, 93, -38, 103, 4, 7, 67, 74, 104, 127, -90, -23, 110, -50, -127, 19, 64, 62]
.run gradient_a
.expect g [17043, 20652, 33322, 23595, -24795, -13454]
.expect_event rows_written_compute 9
.expect_event bits_written_compute 144

.test "gradient of a 3 x 3 window with zero point 9, added to what is there"
.init xz [207, 164, 35, 216, 107, 216, 208, 248, 3, 221, 160, 124, 203, 243, 131, 22, 185, 59]
.init ez [-71, -79, -78, 104, -36, -101, -83, -27, -40, -49, 114, 93]
.init g9 [10*54]
.run gradient_window
.expect g9 [304, -674, -548, -10378, 24178, 19726, -23906, 11851, 6093, -25462, 6667, 1145, 508, 172, 250, -17586, -5714, -8470, -3264, 12982, 8730, 20901, -5960, -19688, -28582, -4334, -16724, -11339, -20305, -37697, -11962, -5338, -6898, -15766, -16694, -16656, -614, 226, 616, 22058, -7622, -21402, 1585, -21147, -30763, -4999, -23011, -30247, 436, 484, 478, -15042, -16738, -16526]

.test "gradient of a depth-wise layer"
.init xz [207, 164, 35, 216, 107, 216, 208, 248, 3, 221, 160, 124, 203, 243, 131, 22, 185, 59]
.init ed [-71, -79, 104, -36, -83, -27, -49, 114]
.run gradient_depthwise
.expect gd [294, -23916, 498, -3274, -28592, -11972, -624, 1575, 426, 24168, 6657, -5724, -5970, -20315, -16704, -7632, -23021, -16748]

.test "rows that were never written"
.init r [1, 2, 3, 4]
.run uninitialised
.expect_trap "uninitialised rows"
