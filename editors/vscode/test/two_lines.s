; SYNTAX TEST "source.sas-imc" "colours of a short program"

.view a.1 acc i32 1x1x6 addr=0
;<----- keyword.control.directive.sas-imc
;     ^^^ variable.other.sas-imc
;                 ^^^^^ constant.numeric.sas-imc
;                       ^^^^ variable.parameter.key.sas-imc
;                           ^ punctuation.separator.sas-imc
    vmm a.1, "x y", w, k1, r5+2:8
;   ^^^ entity.name.function.sas-imc
;            ^^^^^ string.quoted.double.sas-imc
;                          ^^^^^^ variable.language.register.rows.sas-imc
    addi r5, r5, -3
;        ^^ variable.language.register.sas-imc
;                ^^ constant.numeric.sas-imc
