; A training step of a two-layer network, written by hand: 4 inputs -> 6 hidden (ReLU) -> 3 classes.
; docs/tutorials/assembly.md explains it, docs/reference/numerics.md states the arithmetic. The tests at the end:
;   sasc test two_layer.s
; A step on two samples of your own:
;   sasrun two_layer.s --entry train_step --set batch=2 --set mu=3 --set x.host=200,30,10,60,20,220,40,15 --set label=0,1
.sas 1
.machine "sas28"
.meta batch "4"
.param batch r1
.param mu r2

.desc
; host memory: what the host gives, what it gets, and what is kept from forward to backward, 4 samples each
.view x.host host u8 1x1x4 addr=0 batch=4
.view label host i32 1x1x1 addr=64 batch=4
.view loss host i32 1x1x1 addr=128 batch=4
.view prediction host i32 1x1x1 addr=192 batch=4
.view h.host host u8 1x1x6 addr=256 batch=8
.view mask.host host bit 1x1x6 addr=320 batch=1
.view v2.host host i32 1x1x3 addr=384 batch=12      ; 32-bit errors, before the common shift is known
.view v1.host host i32 1x1x6 addr=448 batch=24
.view e2.host host i8 1x1x3 addr=576 batch=4
.view e1.host host i8 1x1x6 addr=640 batch=8

; buffer: one sample at a time
.view x buf u8 1x1x4 addr=0
.view h buf u8 1x1x6 addr=16
.view mask buf bit 1x1x6 addr=24
.view logits buf i8 1x1x3 addr=32
.view v2 buf i32 1x1x3 addr=48
.view v1 buf i32 1x1x6 addr=64
.view e2 buf i8 1x1x3 addr=96
.view e1 buf i8 1x1x6 addr=104
.view g2 buf i32 6x1x3 addr=128                     ; gradients: a row for each row of the matrix
.view g1 buf i32 4x1x6 addr=256
.view d2 buf i8 6x1x3 addr=384
.view d1 buf i8 4x1x6 addr=416

; accumulators
.view a1 acc i32 1x1x6 addr=0
.view a2 acc i32 1x1x3 addr=8
.view back acc i32 1x1x6 addr=16
.view ga2 acc i32 6x1x3 addr=32
.view ga1 acc i32 4x1x6 addr=64

.geom point kernel=1x1                              ; a fully connected layer is a 1 x 1 window on one pixel

; trainable weights stand in transposable sub-arrays: the same cells serve forward and backward
.mat w1 dense transposable 4x6 tensor="w1" trainable
.tile sub=0 size=4x6
.mat w2 dense transposable 6x3 tensor="w2" trainable
.tile sub=1 size=6x3
.mat scratch scratch compute 8x8                    ; cells for the stationary operand of a gradient product
.tile sub=32 size=8x8

; real factor 2^-7 = 2^30 / 2^37 for the hidden layer, 2^-5 for the logits
.table q1 requant zero=0 lo=0 hi=255 bias=[0*6] mult=[0x40000000*6] shift=[37*6]
.table q2 requant zero=0 lo=-128 hi=127 bias=[0*3] mult=[0x40000000*3] shift=[35*3]
.table relu mask lo=0 hi=255 use_lo=1 use_hi=0
.table ce loss mult=369 t_other=1092 t_label=30584  ; logits of scale 1/16, label smoothing 0.1

.data
.tensor "w1" i8 4x6 [12, -9, 21, 5, -17, 8,  -14, 19, 6, -11, 10, -20,  7, 16, -13, 18, -6, 22,  -8, 11, 15, -19, 9, -12]
.tensor "w2" i8 6x3 [15, -12, 4,  -9, 18, -7,  6, -16, 13,  -18, 8, 10,  11, 5, -14,  -5, -13, 17]

.code
.entry infer
    phase forward
    li r3, 0
    loop r1
      hld x, x.host, r3, all
      vmm a1, x, w1, point, all
      req h, a1, q1, all
      vmm a2, h, w2, point, all
      req logits, a2, q2, all
      argmax r6, logits
      stw prediction, r6, r3
      addi r3, r3, 1
    endl
    halt

.entry train_step
.loc "forward"
    phase forward
    li r3, 0
    li r6, 0                                        ; bits of the largest error of the batch
    loop r1
      hld x, x.host, r3, all
      vmm a1, x, w1, point, all
      req h, a1, q1, all                            ; ReLU: clamp to 0..255
      hst h.host, h, r3, all                        ; the gradient of w2 will need it
      mask mask, h, relu, all
      hst mask.host, mask, r3, all
      vmm a2, h, w2, point, all
      req logits, a2, q2, all
      ldw r4, label, r3
      xent v2, logits, ce, r4, r5                   ; softmax - target
      stw loss, r5, r3
      range r6, v2, all
      hst v2.host, v2, r3, all
      addi r3, r3, 1
    endl
.loc "error of layer 2"
    phase error
    addi r7, r6, -7                                 ; shift so that the largest error has 7 bits
    max r7, r7, r0
    li r3, 0
    li r8, 0
    loop r1
      hld v2, v2.host, r3, all
      shr8 e2, v2, r7, all
      hst e2.host, e2, r3, all
.loc "error of layer 1"
      vmmt back, e2, w2, point, all                 ; columns of the same cells
      drain v1, back, all
      hld mask, mask.host, r3, all
      emask v1, v1, mask, all                       ; no error where ReLU clipped
      range r8, v1, all
      hst v1.host, v1, r3, all
      addi r3, r3, 1
    endl
    addi r7, r8, -7
    max r7, r7, r0
    li r3, 0
    loop r1
      hld v1, v1.host, r3, all
      shr8 e1, v1, r7, all
      hst e1.host, e1, r3, all
      addi r3, r3, 1
    endl
.loc "gradients"
    phase gradient
    li r3, 0
    loop r1
      hld h, h.host, r3, all
      hld e2, e2.host, r3, all
      gradp ga2, h, e2, scratch, point, e, all      ; h e2^T, summed over the batch
      hld x, x.host, r3, all
      hld e1, e1.host, r3, all
      gradp ga1, x, e1, scratch, point, e, all
      addi r3, r3, 1
    endl
.loc "updates"
    phase update
    drain g2, ga2, all
    li r6, 0
    range r6, g2, all
    sub r7, r6, r2                                  ; the largest gradient moves its weight by about 2^mu
    psr d2, g2, r7, all
    wupd w2, d2, 0, all
    drain g1, ga1, all
    li r6, 0
    range r6, g1, all
    sub r7, r6, r2
    psr d1, g1, r7, all
    wupd w1, d1, 0, all
    phase forward
    halt

.tests
.test "one training step"
.init x.host [200, 30, 10, 60] sample=0
.init x.host [20, 220, 40, 15] sample=1
.init x.host [35, 10, 180, 90] sample=2
.init x.host [90, 120, 20, 200] sample=3
.init label [0] sample=0
.init label [1] sample=1
.init label [2] sample=2
.init label [1] sample=3
.init_reg r1 4
.init_reg r2 3
.run train_step
.expect_mat w1 [15, -6, 16, 5, -16, 4,  -13, 26, -1, -11, 11, -20,  9, 14, -14, 19, -6, 26,  -7, 17, 7, -18, 11, -11]
.expect_mat w2 [15, -12, 4,  -11, 20, -8,  7, -12, 8,  -19, 8, 10,  10, 7, -14,  -5, -14, 18]
.expect loss [5662] sample=0                        ; in 1/4096 bits: 0.96 nats
.expect loss [1748] sample=1
.expect loss [4264] sample=2
.expect loss [7762] sample=3
.expect_event rows_written_transposable 10          ; one write of each row for the whole batch
.expect_cycles 1776

.test "after four steps all four samples are right"
.init x.host [200, 30, 10, 60] sample=0
.init x.host [20, 220, 40, 15] sample=1
.init x.host [35, 10, 180, 90] sample=2
.init x.host [90, 120, 20, 200] sample=3
.init label [0] sample=0
.init label [1] sample=1
.init label [2] sample=2
.init label [1] sample=3
.init_reg r1 4
.init_reg r2 3
.run train_step
.run train_step
.run train_step
.run train_step
.run infer
.expect prediction [0] sample=0
.expect prediction [1] sample=1
.expect prediction [2] sample=2
.expect prediction [1] sample=3
