package slot

import "github.com/exosite/gwe/gweinit/ubenv"

// ErrNoState says that neither copy of the boot state is valid.
var ErrNoState = ubenv.ErrNone

// Store reads and writes the state on a device. It is for one goroutine.
type Store struct{ record ubenv.Record }

// NewStore returns the store on dev, the partition ubenv.
func NewStore(dev ubenv.Device) *Store {
	return &Store{ubenv.Record{
		Name: "boot state", Dev: dev, Offset: ubenv.BootState, Size: CopySize,
		Seq: func(buf []byte) (uint32, error) {
			st, err := Decode(buf)
			return st.Seq, err
		},
	}}
}

// Load returns the newest valid copy. The error wraps ErrNoState, and says
// what is wrong with each copy, when both could be read and neither is valid.
func (s *Store) Load() (State, error) {
	buf, err := s.record.Load()
	if err != nil {
		return State{}, err
	}
	return Decode(buf)
}

// Save makes st the newest state: it overwrites the older copy under the next
// sequence number. When it fails, the other copy still holds the state from
// before.
func (s *Store) Save(st State) error {
	return s.record.Save(func(seq uint32) []byte {
		st.Seq = seq
		return st.Encode()
	})
}

// Update loads the state, applies one operation, and saves the result. With
// an error of the operation nothing is written.
func (s *Store) Update(op func(*State) error) (State, error) {
	st, err := s.Load()
	if err != nil {
		return State{}, err
	}
	before := st
	if err := op(&st); err != nil {
		return before, err
	}
	if st == before {
		return st, nil
	}
	return st, s.Save(st)
}
