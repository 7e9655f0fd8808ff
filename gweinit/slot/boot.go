package slot

// Next says what boot.scr does with a state: which slots it tries, in this order,
// why (as it prints it), and what it leaves on the disk. It is a model of that
// script, compared with the real one in the real U-Boot, and what tests of
// everything that writes the state ask whether a gateway comes back.
func (s State) Next() (order []Name, why string, after State) {
	after = s
	if s.Trial.Valid() && s.Slot(s.Trial).Status == Ready && s.TrialLeft > 0 {
		after.TrialLeft--
		after.Seq++
		return []Name{s.Trial}, "trial", after
	}
	for _, n := range []Name{A, B} {
		left := &after.Slot(n).Left
		*left = min(*left, BootTries)
	}
	bootable := func(n Name) bool { return after.Slot(n).Status == Good && after.Slot(n).Left > 0 }
	if !bootable(A) && !bootable(B) {
		for _, n := range []Name{A, B} {
			if after.Slot(n).Status == Good {
				after.Slot(n).Left = BootTries
			}
		}
	}
	pick := s.Good
	if !bootable(pick) {
		pick = s.Good.Other()
	}
	if !bootable(pick) { // no slot is good: the images' own hashes decide
		return []Name{s.Good, s.Good.Other()}, "lastresort", s
	}
	why = "good"
	if pick != s.Good {
		why = "fallback"
	}
	after.Slot(pick).Left--
	after.Seq++
	return []Name{pick}, why, after
}
