"""Words that tell names of people from names of places and offices, in English and Arabic, for Oman.

What belongs here: word lists alone. They are common knowledge (given names, tribal names, wilayats), written for this
project; no list of persons. What does not: how they are used (`latin_words.py`, `arabic_words.py`).
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Tribal and family names without their article. Names that end in -i need not be listed to be recognised after "Al".
TRIBES = _words(
    """
    abri adawi ajmi alawi amri araimi badi bahri balushi baluchi barwani battashi batashi breiki brashdi
    busaidi dhahli dhahoori dhuhoori dhuhouri esry fahdi farsi fazari ghafri ghailani ghaithi ghammari
    gheilani ghilani habsi hadhrami hadhri hadidi hajri hamdani handhali harrasi harthi hasani hashemi
    hashmi hatmi hikmani hinai hooti hosni ismaili issai jaafari jabri jahdhami jahwari janaibi jardani
    junaibi kaabi kalbani kamali kamyani kathiri khaldi khanbashi kharusi khatri khusaibi kindi kiyumi
    kumzari lamki lawati maamari maawali mahri mahrizi mahrouqi mahrooqi mamari mandhari maqbali
    maqrashi marhubi mashani maskari masroori mazrui mawali mujaini mukhaini mukhini musalami nabhani
    naamani nadabi nasri nofali nofli noumani numani owaisi qasmi qutaiti raisi rahbi rashdi rasbi
    rawahi riyami rubaie ruqaishi saadi sabahi saidi salhi salmi salti sarmi sawafi shabibi shahri
    shanfari sharji sharyani shehhi shibli shidi shihi shizawi shukaili shuaili sinani sinawi siyabi
    subhi tobi toobi toubi touqi wahaibi wahibi wahshi yahmadi yaqoubi yarubi zaabi zadjali zakwani
    zeidi ubaidani
    """
)

GIVEN = _words(
    """
    abdulaziz abdulhakim abdullah abdulrahman abdulmalik abdulsalam abeer abrar adil adnan afaf ahlam
    ahmed ahmad aisha ali aliya ameera amer amina amira ammar anwar asila asma ayman ayoub aziza azza
    badr badriya bakhit basma bilal bushra dalia dawood fahad fahmi faisal faiza farah farida faris
    fatma fatima firas ghada ghalib ghassan habib hafidh haitham hamad hamdan hamed hamid hamood hamoud
    hana hanan harib harith hassan hatim haya hazza hilal hind humaid huda hussain hussein ibrahim
    ibtisam idris intisar iqbal ishaq ismail issa jaber jamal jamila jamil jokha juma kamil karim
    kawthar khadija khalfan khalid khalil khamis khawla khulood laila lamees layla lojain lubna luqman
    maha mahfoodh mahmood mahmoud majid malik manal mansoor mariam marwa marwan maryam masoud mazin
    mohammed mohamed mohammad moosa moza mubarak muna munira musallam mundhir musa mustafa nabhan nabil
    nada nadia nahla naima naifa nasib nasir nasra nasser nawal nawaf obaid omar othman qais rabia rahma
    raiya rashid rashad raya redha riyadh ruqaya saad sabra safa safiya sahar said saeed saif salah
    saleh salem salim salma sami samir samira samiya sara saud shabib shaikha shamsa shuaib sulaiman
    suleiman sultan suhail sumaya suwaid taimur talal talib tariq tawfiq thani thuraya tahir usama wafaa
    waleed walid warda wadha yahya yaqoob yaqoub yasir yasmin younis yousuf youssef yusuf yusri zahir
    zahra zainab zakariya zakiya zakia zayed zayid ziyad zuhair zuwaina zubaida zamzam badriyah buthaina
    bader darwish firdaus hafidha jaffar matar mohsin muhanna musabah musabbah nujood shihab hamda
    shahad
    """
)

HONORIFICS = _words(
    """
    mr mrs ms miss dr eng prof sir madam sheikh shaikh sheikha sayyid sayyida sayid haji hajji captain
    capt advocate engineer doctor uncle aunt brother sister judge colonel major lieutenant sergeant
    inspector nakhoda lord lady dame baroness cllr councillor rev reverend mx justice
    lt col maj gen sgt cpl brig cdr adm brigadier commander corporal admiral commodore constable superintendent
    baron viscount viscountess nurse mayor
    """
)

# Words in small letters before a name: "engineer Kamil …", "my husband Nasib …".
ROLES = _words(
    """
    engineer captain advocate lawyer doctor inspector skipper foreman supervisor superintendent manager
    clerk officer owner master pilot diver agent guard mechanic surveyor secretary treasurer chairman
    husband wife son daughter father mother brother sister cousin nephew niece uncle partner neighbour
    tenant driver named called client applicant deckhand crewman fisherman boatman signed
    kid child baby boyfriend girlfriend fiancé fiancée colleague boss teacher nurse grandson granddaughter
    grandfather grandmother stepson stepdaughter
    """
)

KINSHIP = frozenset({"bin", "bint", "ibn", "b."})
PARTICLES = frozenset({"van", "von", "de", "der", "den", "da", "dos", "di", "la", "le"})

# The name of a place or an office ends a name that stands before it, and is never taken for one.
PLACES = _words(
    """
    oman omani muscat muttrah mutrah matrah muscat's sohar suhar sur khasab duqm salalah masirah barka
    seeb saham shinas liwa musandam dhofar batinah bausher nizwa ibri rustaq ibra bidiyah buraimi
    quriyat qurayyat qurayat quryat mirbat taqah sadah hasik shalim hadbin dhalkut rakhyut mahout haima
    hilf sifah yiti sidab qantab azaiba qurum ghala ruwi darsait wadi ras khor bandar jebel jabal jalan
    bani dibba bukha kumzar lima madha qalhat tiwi fins bimmah wudam musanaah mussanah suwaiq suwayq
    khaburah khaboura majis daymaniyat dimaniyat hallaniyat kuria shannah sawadi darsayt haramel
    hamriyah jissah khayran madrakah shuwaymiyah lakbi goa dubai sharjah india italy canada europe dutch
    rotterdam mombasa karachi mumbai arabia gulf ramadan eid fajr asr maghrib isha quran shab jazirat
    asilah
    """
)
# Place, vessel and company words that stand after "Al".
AL_PLACES = _words(
    """
    amerat amrat ashkharah ayjah bahr bahar batah batinah fahal fahl ghubra ghubrah hadd hail hamra
    hamriyah hikman jazir jinz kamil khaboura khaburah khuwair khoudh khawd khod mabrook marjan marsa
    mawaleh mouj murjan musanaah musannah najma naseem nawras rusayl rustaq safina sawadi seeb sib
    suwaiq suwayq wadi wafi wusta wustani dhahirah dakhiliyah sharqiyah buraimi wattayah wutayyah
    mudhaibi mazyunah ansab hajar jissah khiran khayran khobar arabi
    """
)
# A capitalised word after one of these, or before "Al Bahr" or a number, is the name of a vessel or an establishment.
VESSELS = (
    "boat|dhow|trawler|launch|sloop|barque|frigate|corvette|lighter|yacht|catamaran|tug|tugboat|barge|ferry|tender|vessel|ship|tanker|skiff|craft|"
    "schooner|restaurant|cafe|hotel"
)
PLACE_HEADS = _words("ras khor bandar wadi jebel jabal jalan bani bu umm barr shab port")

# A capitalised run with one of these names an organisation, a vessel or an office.
ORGANISATIONS = _words(
    """
    llc saoc saog co company corporation ltd limited group hotel resort restaurant cafe café bank centre
    center club committee association society cooperative school university college institute hospital
    clinic works marine services trading contracting enterprises logistics stevedoring dredging piling
    diving divers dive boats boat yachts cruises tours trips charter fishing fisheries fishermen
    fishermen's anglers pictures productions film media studio consultants consulting engineering
    engines industries factory store stores supply supplies lifting leisure marina camps camp events
    repair repairs workshop yard hull craft sailing riders bunkers bunkering fuel nets foods ice cold
    aquaculture agency office directorate department ministry municipality police navy authority council
    court volunteers team project labs lab partners holdings capital insurance cruiser dhow dinghy kite
    law chambers inc incorporated plc gmbh corp orchestra foundation trust union airlines airways systems
    software technologies technology networks solutions global industries associates brothers sons
    """
)

# Words with a capital that begin a sentence or belong to the institution's language; they are never part of a name.
STOP_WORDS = _words(
    """
    street st road rd avenue ave apt suite square lane drive terrace turnpike boulevard crescent unit room sunken dues
    barge tug yacht trawler wreck berths boats anchor chain quay jetties pier ramp nets engine tyres dog dogs sardine
    a about above according after again against all allah also although am an and another any are
    article articles as at attached back be because been before being berth beside besides best better
    between block both box building but by by-law bylaw can capt circular civil coastal code complaint
    concerning condition could cr dear decision dues during each either enclosed english even every few
    file find first flat following for foreman four from further general give good grace greetings
    guarantee had harbour has have having he hello hence her here hers herself hi him his hm honourable
    house how however i if in indeed inspection instead invoice is it item items its itself jetty kindly
    kiosk last later law legal let letter like local many may maybe me mine ministry mooring more most
    mr's much must my nearly neither never new next nine no nobody nor not note nothing notice now of
    office officer on once one only or order other our ours out over owner paid pay payment peace
    penalty permit permits phone please plot po postal previously question re received refund regarding
    regards regulation reply request respected safety schedule section sections seven she should since
    sincerely six slip small so some someone soon still stall such sunken tell ten than thank thanks
    that the their them then there therefore these they this those though three through thus to today
    together tomorrow treasurer trustee two under unless until upon urgent us vehicle very via vessel
    villa volunteer was way we were what when whenever where whether which while who whoever why wilayat
    will with without would year yes yesterday yet you your yours faithfully truly esq manager director
    secretary chairman captain skipper master chief head deputy assistant clerk accounts affairs fees
    harbours sea shore works ltd oman's january february march april june july august september october
    november december jan feb mar apr jun jul aug sep sept oct nov dec monday tuesday wednesday thursday
    friday saturday sunday mondays tuesdays wednesdays thursdays fridays saturdays sundays arabic french
    urdu hindi indian omani euro glass hose lamps cap north south east west northern southern eastern
    western god omr iban id gsm tel email e-mail fax passport account resident card number commercial
    registration born plate address answer question name names phone mobile fax desk subject note date
    minister colleague colleagues customer team all member members everyone friend friends applicant
    resident residents hi hello hey sincerely attn cc age sex gender nationality website web url zip
    """
)
