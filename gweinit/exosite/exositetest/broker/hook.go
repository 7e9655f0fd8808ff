package broker

import (
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// version is MQTT 3.1.1's, in CONNECT.
const version = 4

// The topics of the API.
const (
	resourceTopic  = "$resource/"
	batchTopic     = "$resource.batch"
	provisionTopic = "$provision/"
)

// maxFilters is for one session's subscriptions.
const maxFilters = 100

// hook is what the library asks. Topics and client IDs are those of one device
// only: inside they begin with its name.
type hook struct {
	mqtt.HookBase
	cloud   *cloud.Cloud
	product string
	log     *slog.Logger
	server  *mqtt.Server
	number  atomic.Int64 // of the last push

	mu        sync.Mutex
	links     map[*link]bool // that have a session
	mailboxes map[string]*mailbox
	closed    bool
	pushes    sync.WaitGroup
}

// session is a connection that has been let in.
type session struct {
	device  *cloud.Device // nil: nobody, who can be provisioned
	product string
	token   string
	cert    []byte   // SHA-256
	space   string   // what its topics and its client ID begin with
	mailbox *mailbox // nil: nobody's
	holds   bool     // the mailbox's mu
	asked   uint16   // packet ID of what the client asks for, see OnPacketRead
}

func (h *hook) ID() string         { return "exosite" }
func (h *hook) Provides(byte) bool { return true } // what is not below does nothing

// OnConnect refuses other versions of MQTT.
func (h *hook) OnConnect(c *mqtt.Client, pk packets.Packet) error {
	if pk.ProtocolVersion != version {
		h.refused(linkOf(c), "MQTT version "+strconv.Itoa(int(pk.ProtocolVersion))+", want 4, which is 3.1.1")
		h.server.SendConnack(c, packets.ErrUnsupportedProtocolVersion, false, nil)
		return packets.ErrUnsupportedProtocolVersion
	}
	return nil
}

// OnConnectAuthenticate finds out whose session it is.
func (h *hook) OnConnectAuthenticate(c *mqtt.Client, pk packets.Packet) bool {
	l := linkOf(c)
	s := &session{product: l.product(h.cloud, h.product), token: string(pk.Connect.Password), cert: l.certificate()}
	var ok bool
	switch {
	case len(pk.Connect.Username) > 0:
		h.refused(l, "a user name, want an empty one")
		return false
	case s.token != "":
		if s.device, ok = h.cloud.ByCIK(s.token); !ok {
			h.refused(l, "the password is not the token of a device")
			return false
		}
	case s.cert != nil:
		s.device, _ = h.cloud.ByCertificate(s.cert) // not provisioned yet: nobody
	}
	if s.device != nil && s.device.Product() != s.product {
		// A device's own product, unless the server's name is that of another one.
		if s.product != h.product {
			h.refused(l, "the device is not one of product "+s.product)
			return false
		}
		s.product = s.device.Product()
	}
	if s.device == nil {
		s.space = "nobody/" + c.Net.Remote + "/"
		c.Properties.Clean = true // nothing is kept for strangers
	} else {
		d, err := h.cloud.Device(s.device.Product(), s.device.SN())
		if err != nil {
			h.refused(l, err.Error())
			return false
		}
		s.space = spaceOf(d.RID)
	}
	c.ID = s.space + c.ID
	c.Properties.Will = mqtt.Will{}

	h.mu.Lock()
	if s.device != nil {
		s.mailbox = h.mailbox(s.space)
	}
	l.client, l.session = c, s
	h.links[l] = true
	h.mu.Unlock()
	// It may have ended before endInvalid could know of the session.
	if s.device != nil && !h.valid(s) {
		h.refused(l, errEnded.Error())
		return false
	}
	h.log.Info("MQTT session", "from", c.Net.Remote, "product", s.product, "serial", s.serial())
	return true
}

var errEnded = errors.New("its credential is no longer valid")

// spaceOf is what the topics of a device begin with. It is by RID: that is its
// data's name, which a replacement unit takes over, and another device does not.
func spaceOf(rid string) string { return "device/" + rid + "/" }

func (s *session) serial() string {
	if s.device == nil {
		return ""
	}
	return s.device.SN()
}

// hold keeps pushes away from a session that begins or ends.
func (s *session) hold() {
	if s.mailbox != nil && !s.holds {
		s.mailbox.mu.Lock()
		s.holds = true
	}
}

func (s *session) release() {
	if s.holds {
		s.holds = false
		s.mailbox.mu.Unlock()
	}
}

// refused tells the developer of a client why its session ends.
func (h *hook) refused(l *link, why string) {
	l.refused = true
	h.log.Warn("MQTT session refused", "from", l.RemoteAddr().String(), "why", why)
}

// end refuses in the midst of a session.
func (h *hook) end(l *link, err error) {
	h.log.Warn("MQTT session refused", "from", l.RemoteAddr().String(), "why", err)
	l.client.Stop(err)
}

// OnSessionEstablish is before the library takes over what an earlier connection
// with this client ID has left.
func (h *hook) OnSessionEstablish(c *mqtt.Client, _ packets.Packet) {
	linkOf(c).session.hold()
	if earlier, ok := h.server.Clients.Get(c.ID); ok {
		inOrder(earlier)
	}
}

// OnSessionEstablished makes the subscription that each device has.
func (h *hook) OnSessionEstablished(c *mqtt.Client, _ packets.Packet) {
	s := linkOf(c).session
	if s.device == nil {
		return
	}
	own := packets.Subscription{Filter: s.space + resourceTopic + "#", Qos: 1}
	if _, ok := c.State.Subscriptions.Get(own.Filter); !ok {
		h.server.Topics.Subscribe(c.ID, own)
		c.State.Subscriptions.Add(own.Filter, own)
	}
	s.release()
}

// OnDisconnect is before the library clears up.
func (h *hook) OnDisconnect(c *mqtt.Client, _ error, _ bool) { linkOf(c).session.hold() }

// left is after that; err is why the connection has ended.
func (h *hook) left(l *link, err error) {
	from := l.RemoteAddr().String()
	s := l.session
	if s == nil {
		if !l.refused {
			h.log.Info("no MQTT session", "from", from, "error", err)
		}
		return
	}
	h.mu.Lock()
	delete(h.links, l)
	h.mu.Unlock()
	s.hold()
	// The library does not, if the connection ends while the session begins.
	if c, ok := h.server.Clients.Get(l.client.ID); ok && c == l.client && c.Properties.Clean {
		h.server.UnsubscribeClient(c)
		h.server.Clients.Delete(c.ID)
	}
	s.release()
	why := "DISCONNECT"
	if err != nil {
		why = err.Error()
	}
	h.log.Info("MQTT session ended", "from", from, "product", s.product, "serial", s.serial(), "why", why)
}

// OnClientExpired forgets what the library does not.
func (h *hook) OnClientExpired(c *mqtt.Client) {
	c.ClearInflights()
	h.server.UnsubscribeClient(c)
}

// OnACLCheck lets all be published and got: topics are the session's own. Nobody
// gets but the answer to its provisioning.
func (h *hook) OnACLCheck(c *mqtt.Client, topic string, write bool) bool {
	l := linkOf(c)
	if write || l == nil {
		return true
	}
	s := l.session
	return s.device != nil || strings.HasPrefix(topic, s.space+provisionTopic)
}

// OnSubscribe grants QoS 1 at most, and nothing if there would be too many.
func (h *hook) OnSubscribe(c *mqtt.Client, pk packets.Packet) packets.Packet {
	tooMany := c.State.Subscriptions.Len()+len(pk.Filters) > maxFilters
	for i := range pk.Filters {
		pk.Filters[i].Qos = min(pk.Filters[i].Qos, 1)
		if tooMany {
			pk.Filters[i].Filter = ""
		}
	}
	return inSpace(c, pk)
}

func (h *hook) OnUnsubscribe(c *mqtt.Client, pk packets.Packet) packets.Packet {
	return inSpace(c, pk)
}

func inSpace(c *mqtt.Client, pk packets.Packet) packets.Packet {
	s := linkOf(c).session
	for i := range pk.Filters {
		if pk.Filters[i].Filter != "" { // which is not a filter
			pk.Filters[i].Filter = s.space + pk.Filters[i].Filter
		}
	}
	return pk
}

// theirID stands for the packet IDs of what clients ask for. The library has one
// table for these and for those of its own, which it counts from 1: a client's
// would take a push off it, or be refused as in use.
const theirID = 65535

func (h *hook) OnPacketRead(c *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	l := linkOf(c)
	switch pk.FixedHeader.Type {
	case packets.Publish:
		// The library would ignore it without a word.
		if l.session != nil && !mqtt.IsValidFilter(pk.TopicName, true) {
			err := wrongTopic(pk.TopicName)
			h.end(l, err)
			return pk, packets.ErrRejectPacket
		}
	case packets.Subscribe, packets.Unsubscribe:
	default:
		return pk, nil
	}
	if l.session != nil && pk.PacketID != 0 {
		l.session.asked, pk.PacketID = pk.PacketID, theirID
	}
	return pk, nil
}

// OnPacketEncode gives clients their own packet IDs and topics back.
func (h *hook) OnPacketEncode(c *mqtt.Client, pk packets.Packet) packets.Packet {
	l := linkOf(c)
	if l == nil {
		return pk
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		pk.TopicName = strings.TrimPrefix(pk.TopicName, l.session.space)
	case packets.Puback, packets.Suback, packets.Unsuback:
		pk.PacketID = l.session.asked
	case packets.Connack:
		// A client ID that is missing has no code of its own in the library.
		if pk.ReasonCode == packets.ErrUnspecifiedError.Code {
			pk.ReasonCode = packets.Err3ClientIdentifierNotValid.Code
		}
	}
	return pk
}

// OnPublish does what a message asks for. It goes to nobody.
func (h *hook) OnPublish(c *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	l := linkOf(c)
	if l == nil { // a push
		pk.Created = h.number.Add(1) // see inOrder
		return pk, nil
	}
	if err := h.published(l, pk); err != nil {
		h.end(l, err)
		return pk, packets.ErrRejectPacket // no PUBACK
	}
	return pk, packets.CodeSuccessIgnore
}

func (h *hook) published(l *link, pk packets.Packet) error {
	s := l.session
	identity, provision := strings.CutPrefix(pk.TopicName, provisionTopic)
	alias, write := strings.CutPrefix(pk.TopicName, resourceTopic)
	switch {
	case pk.FixedHeader.Qos > 1:
		return errors.New("QoS 2, want 0 or 1")
	case provision:
		return h.provision(l, identity, pk.TopicName)
	case s.device == nil:
		return errors.New("a session without a credential can publish to " + provisionTopic + "<identity> only, not to " + strconv.Quote(pk.TopicName))
	case pk.TopicName == batchTopic:
		return h.record(l, pk.Payload)
	case write && alias != "" && !strings.Contains(alias, "/"):
		_, err := s.device.Write(cloud.Value{Alias: alias, Value: string(pk.Payload)})
		return err
	}
	return wrongTopic(pk.TopicName)
}

func wrongTopic(topic string) error {
	return errors.New("topic " + strconv.Quote(topic) + ", want " + resourceTopic + "<alias> or " + batchTopic)
}

// provision activates a device, and tells it its token whether it has subscribed
// or not.
func (h *hook) provision(l *link, identity, topic string) error {
	s := l.session
	if s.device != nil {
		return errors.New("provisioning in a session with a credential")
	}
	from := l.RemoteAddr().String()
	token, err := h.cloud.Activate(s.product, identity, from, s.cert)
	if err != nil {
		return err
	}
	h.log.Info("provisioned by MQTT", "from", from, "product", s.product, "serial", identity)
	return l.client.WritePacket(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: topic, Payload: []byte(token),
	})
}

func (h *hook) record(l *link, payload []byte) error {
	points, err := parseBatch(payload)
	if err != nil {
		return err
	}
	s := l.session
	clashes, err := s.device.Record(points...)
	for _, p := range clashes {
		h.log.Warn("a point of a batch clashes and is left out", "from", l.RemoteAddr().String(), "product", s.product, "serial", s.serial(), "alias", p.Alias, "time", p.Time)
	}
	return err
}
