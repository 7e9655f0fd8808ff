package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// accounts are the users and groups of a root directory.
type accounts struct {
	list   []Credential // without Groups
	groups []account
}

// account is a line of a group file.
type account struct {
	name    string
	id      int
	members []string
}

func (a accounts) byName(name string) int {
	return slices.IndexFunc(a.list, func(c Credential) bool { return c.Name == name })
}

func (a accounts) byUID(uid int) int {
	return slices.IndexFunc(a.list, func(c Credential) bool { return c.UID == uid })
}

// credential returns the user with a name or UID.
func (a accounts) credential(user string) (*Credential, error) {
	i := -1
	if uid, err := parseInt(user, 10); err != nil {
		i = a.byName(user)
	} else if inRange(uid, 0, math.MaxInt32) == nil {
		i = a.byUID(int(uid))
	}
	if i < 0 {
		return nil, errors.New("there is no such user")
	}
	c := a.list[i]
	c.Groups = []int{c.GID}
	for _, g := range a.groups {
		if slices.Contains(g.members, c.Name) && !slices.Contains(c.Groups, g.id) {
			c.Groups = append(c.Groups, g.id)
		}
	}
	return &c, nil
}

// gid returns the ID of the group with a name or GID.
func (a accounts) gid(group string) (int, error) {
	id, err := parseInt(group, 10)
	for _, g := range a.groups {
		if err == nil && int64(g.id) == id || err != nil && g.name == group {
			return g.id, nil
		}
	}
	return 0, errors.New("there is no such group")
}

// readAccounts reads the passwd and group files of a root directory; "" is the
// system's. Files that are not there are empty, and lines that are wrong are
// left out, as the C library does. It does not follow links out of the root.
func readAccounts(root string) (a accounts, err error) {
	folder, err := os.OpenRoot("/" + root)
	if err != nil {
		return a, cause(err)
	}
	defer folder.Close()
	open := folder.OpenFile
	if root == "" {
		// Links to absolute paths are within this root.
		open = func(name string, flag int, perm os.FileMode) (*os.File, error) {
			return os.OpenFile("/"+name, flag, perm)
		}
	}
	err = eachLine(open, "etc/passwd", 6, func(f []string) {
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if ok1 && ok2 {
			a.list = append(a.list, Credential{Name: f[0], UID: uid, GID: gid, Home: f[5]})
		}
	})
	if err != nil {
		return accounts{}, err
	}
	err = eachLine(open, "etc/group", 4, func(f []string) {
		if gid, ok := parseID(f[2]); ok {
			a.groups = append(a.groups, account{name: f[0], id: gid, members: strings.Split(f[3], ",")})
		}
	})
	return a, err
}

// parseID reads an ID. The last ones do not fit into an int everywhere.
func parseID(s string) (int, bool) {
	id, err := strconv.ParseUint(s, 10, 31)
	return int(id), err == nil
}

// eachLine calls f with the fields of each line that has at least that many.
func eachLine(open open, name string, least int, f func(fields []string)) error {
	text, err := readFile(open, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(fields) >= least && fields[0] != "" && fields[0][0] != '#' {
			f(fields)
		}
	}
	return nil
}

// users returns the accounts of a root directory, which it reads once.
func (l *loader) users(root string) (accounts, error) {
	if a, ok := l.accounts[root]; ok {
		return a.accounts, a.err
	}
	a, err := readAccounts(root)
	l.accounts[root] = accountsOrError{a, err}
	return a, err
}

type accountsOrError struct {
	accounts
	err error
}

// user takes the name or UID of a user of a root directory.
func (l *loader) user(to **Credential, root string) setter {
	return func(value string) error {
		a, err := l.users(root)
		if err != nil {
			return err
		}
		c, err := a.credential(value)
		if err != nil {
			return err
		}
		*to = c
		return nil
	}
}

// owner takes USER or USER:GROUP.
func (l *loader) owner(uid, gid *int) setter {
	return func(value string) error {
		a, err := l.users("")
		if err != nil {
			return err
		}
		user, group, both := strings.Cut(value, ":")
		c, err := a.credential(user)
		if err != nil {
			return err
		}
		id := -1
		if both {
			if id, err = a.gid(group); err != nil {
				return err
			}
		}
		*uid, *gid = c.UID, id
		return nil
	}
}
