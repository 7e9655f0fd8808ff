package update

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/exosite/gwe/gweinit/ubenv"
	"github.com/exosite/gwe/gweinit/ubenv/sealed"
)

const (
	magic    = "GWE UPD\n"
	version  = 1 // of the layout; what is new in the JSON leaves it alone
	copySize = 64 << 10
)

// Store reads and writes the record on a device. It is for one goroutine.
type Store struct{ record ubenv.Record }

// NewStore returns the store on dev, the partition ubenv.
func NewStore(dev ubenv.Device) *Store {
	return &Store{ubenv.Record{
		Name: "firmware update", Dev: dev, Offset: ubenv.Update, Size: copySize,
		Seq: func(buf []byte) (uint32, error) {
			_, seq, err := decode(buf)
			return seq, err
		},
	}}
}

// Load returns the record; an empty one if there is none, or it is lost: the boot
// state goes on without.
func (s *Store) Load() (Record, error) {
	buf, err := s.record.Load()
	if errors.Is(err, ubenv.ErrNone) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, err
	}
	r, _, err := decode(buf)
	return r, err
}

// Save makes r the record. When it fails, the one from before is there.
func (s *Store) Save(r Record) error {
	payload, err := json.Marshal(r)
	if most := copySize - sealed.Overhead; err == nil && len(payload) > most {
		err = fmt.Errorf("%d bytes, there is room for %d", len(payload), most)
	}
	if err != nil {
		return fmt.Errorf("firmware update: %w", err)
	}
	return s.record.Save(func(seq uint32) []byte { return sealed.Encode(magic, version, seq, payload, copySize) })
}

func decode(buf []byte) (Record, uint32, error) {
	payload, seq, err := sealed.Decode(magic, version, buf)
	if err != nil {
		return Record{}, 0, err
	}
	var r Record
	if err := json.Unmarshal(payload, &r); err != nil {
		return Record{}, 0, err
	}
	if u := r.Update; u != nil && !u.Slot.Valid() {
		return Record{}, 0, fmt.Errorf("an update of slot %q", u.Slot)
	}
	return r, seq, nil
}
