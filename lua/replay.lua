-- Restore each room to the state that the caller knows, after the server has lost it. Times are milliseconds.
--
-- KEYS     feed, epoch, leases, owned, cleared; each: room, prefix; last: failed if a status is Failed
-- ARGV     feed_length, ttl_ms, terminal_ttl_ms, epoch_ttl_ms, nonce, rank, world_size, owner,
--          incarnation, author; each: generation, request, status, reason, length, role, loss, opened,
--          written, updated_ms
-- REPLY    feed_id, epoch; each: outcome, status, opened
-- FEED     ttl_ms, status, first, request, reason, rank, absent, owner
-- CODES    1 CREATED, 2 ADVANCED, 3 UNCHANGED, 4 FAILED, 5 SKIPPED, 6 STALE, -2 LEASE, -3 WORLD_SIZE,
--          -4 CORRUPT
-- INCLUDE  ensure_epoch, is_lease_lost, is_above, read_room, none_exist, corrupt_field, rank_view, order,
--          survival, next_generation, replace_room, write_status, clear_replayed, store_length, feed_end,
--          feed
--
-- role: a creator may create the room if it is absent or has a lower generation; attached only merges; cleared is
-- attached, but the rank has cleared, and its last status still counts. A higher generation wins. Merges by strict.
-- loss: after a loss of all data, a creator creates. With server, the data is a prefix of the history, and the room's
-- marks decide: if its opening survived, an absent room was cleared or has expired; if that was lost, it is created;
-- where the feed was trimmed, only if its last write did not survive, and it was opened in the last minute. With none,
-- none is. A room that a replay created is marked as replayed, so that its clear is remembered: another replay may be
-- late. It keeps the time of its last change: updated_ms, empty if unknown. The caller's rank takes part under its
-- lease. Without a status no room is created, and only the length is added. A length that was recorded since the loss
-- stays. The version of the consensus was lost: it continues from the clock's microseconds. opened is the id of the
-- entry that tells the opening. If no entry was appended, feed_id is the feed's last: <id>/<room>/<status>. No room is
-- in a call twice.

local lease_lost, highest = is_lease_lost(), ''  -- before any write, as in open.lua
redis.call('HDEL', KEYS[2], '')  -- nothing, first, as in fail_room.lua: at maxmemory, what was there comes back
local reply = {false, ensure_epoch(KEYS[2], ARGV[5], ARGV[4])}
read_clock()
local NONE, are_new = {}, false

local count = (#ARGV - 10) / 10
for i = 1, count do
  local room, prefix, at = KEYS[i * 2 + 4], KEYS[i * 2 + 5], i * 10 + 1
  local generation, incoming, role, loss = ARGV[at], ARGV[at + 2], ARGV[at + 5], ARGV[at + 6]
  if i % 64 == 1 then are_new = none_exist(i * 2 + 4, math.min(128, 2 * (count - i + 1))) end  -- 64 rooms with prefixes
  local fields, type_error = NONE, nil
  if not are_new then fields, type_error = read_room(room, true) end
  local current = fields.generation or ''
  local outcome, status = 3, rank_view(fields.status, fields[status_field], fields[cleared_field])
  local corrupt = not are_new and corrupt_field(fields)
  local is_absent = is_above(generation, current)
  local absent = is_absent and absence(room, role, loss, generation, ARGV[at + 7], ARGV[at + 8])
  if is_absent and not ORDER[incoming] then absent = absent or 5 end
  if type_error or corrupt then
    outcome, status = corrupt and -4 or 3, type_error or corrupt
  elseif is_above(current, generation) or (current == generation and fields[cleared_field] and role ~= 'cleared')
    or (current == generation and (fields.request or '') ~= ARGV[at + 1] and role == 'creator') then
    outcome = 6
  elseif lease_lost then
    outcome, status = -2, owner
  elseif absent then
    outcome = absent
  elseif current == generation and (fields.world_size or '') ~= world_size then
    outcome, status = -3, fields.world_size or ''
  elseif not (current == generation and fields[cleared_field]) then
    if current ~= generation then
      openings = openings or {keys = 5, width = 3}
      if is_above(generation, highest) then highest = generation end
      fields = replace_room(room, prefix, fields, generation, ARGV[at + 1], ARGV[at + 9], are_new)
      openings[#changes / 5 + 1] = i
    end
    if fields.status == 'Failed' and not fields[status_field] and role ~= 'cleared' and ORDER[incoming] then
      incoming = 'Failed'  -- as in open.lua: the rank is there, and sees that
    end
    if incoming == 'Failed' then
      outcome = fields[status_field] == 'Failed' and 3 or 4
    elseif fields.status ~= 'Failed' and (ORDER[incoming] or 0) > (ORDER[fields[status_field]] or 0) then
      outcome = fields[status_field] and 2 or 1
    end
    if outcome ~= 3 then
      if rank ~= '' and now_us - (fields.version or 0) > 0 then fields.version = now_us end
      write_status(room, fields, incoming, ARGV[at + 3])
    end
    if outcome == 3 and rank ~= '' then take_part(room, fields) end
    if ARGV[at + 4] ~= '' then store_length(prefix, ARGV[at + 4], generation) end
    status = rank_view(fields.status, fields[status_field], fields[cleared_field])
    if role == 'cleared' and rank ~= '' and ORDER[incoming] then
      clear_replayed(room, prefix, fields, incoming, outcome ~= 3)
      status = false
    end
  end
  reply[i * 3], reply[i * 3 + 1], reply[i * 3 + 2] = outcome, status, fields.opened or false
  if fields_read > MAX_FIELDS then break end
end
if #new_parts > 0 then list_new_rooms() end
if #changes == 0 then reply[1] = table.concat({feed_end(KEYS[1])}, '/') end
if highest ~= '' then next_generation(highest) end
